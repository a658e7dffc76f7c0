"""The whole network, small and with random weights: what must hold whatever it has learnt."""

import pytest
import torch

from hiervl.structures import QueryPredictions
from hiervl.utils.errors import UserError
from tests.inputs import IGNORE, labeled, random_images

CLASSES = 6
ALONE = {"atol": 1e-5, "rtol": 1e-5}


def scores_of(network, images, presence=None):
    """Semantic scores (B, C, h, w) in evaluation mode."""
    network.eval()
    with torch.no_grad():
        text = network.encode_text()
        output = network.segment(network.normalize(list(images)), text, presence)
        return network.semantic_scores(output, text), output


# ---- independence of the images of a batch ------------------------------------------------------------------------


@pytest.mark.parametrize("instance_queries", [8, 0])
def test_an_image_does_not_depend_on_its_batch(make_network, instance_queries):
    """One image of two present classes beside one of all classes: its rows are padded, its result stays."""
    network = make_network(
        "MODEL.QUERY_DECODER.INSTANCE_QUERIES", instance_queries, "MODEL.HSQG.MIN_ACTIVE", 1,
        "MODEL.HSQG.HARD_NEGATIVES", 0,
    )  # fmt: skip
    images = random_images(3)
    presence = torch.zeros(3, CLASSES, dtype=torch.bool)
    presence[0, [1, 4]] = True
    presence[1] = True
    presence[2, [2, 3, 5]] = True
    batch, output = scores_of(network, images, presence)
    queries_per_image = output.text_queries.valid.sum(1).tolist()
    assert queries_per_image == [2 * 3, 2 * 6, 2 * 4]  # two levels; background is always active
    reordered, _ = scores_of(network, images[[2, 0, 1]], presence[[2, 0, 1]])
    torch.testing.assert_close(reordered, batch[[2, 0, 1]], **ALONE)
    for b in range(3):
        alone, _ = scores_of(network, images[b : b + 1], presence[b : b + 1])
        torch.testing.assert_close(alone, batch[b : b + 1], **ALONE)
    assert (batch[0] - batch[1]).abs().max() > 0.01  # the images do differ


def test_inference_does_not_depend_on_the_batch(make_network):
    """The gate activates another number of classes in every image; the semantic maps stay those of the image alone."""
    network = make_network("MODEL.HSQG.MIN_ACTIVE", 1).eval()
    images = random_images(5)
    gate = scores_of(network, images)[1].text_queries.relevance_logits[:, 1:].sigmoid().flatten().sort().values
    network.query_generator.threshold.fill_((gate[12] + gate[13]) / 2)  # 25 classes beside background: half of them
    _, output = scores_of(network, images)
    assert len(set(output.text_queries.valid.sum(1).tolist())) > 1
    batch = network.semantic_maps(images)
    torch.testing.assert_close(network.semantic_maps(images.flip(0)), batch.flip(0), **ALONE)
    for b in range(5):
        torch.testing.assert_close(network.semantic_maps(images[b : b + 1]), batch[b : b + 1], **ALONE)


def test_maps_are_resized_about_the_centers_of_pixels(make_network, resize_by_opencv):
    """To the padded size first, of which the padding is cut off; then, as Detectron2 calls it, to the one asked for."""
    network = make_network().eval()
    image = random_images(1, 50, 83)
    scores, _ = scores_of(network, image)
    at_size = resize_by_opencv(scores, (64, 96))[:, :, :50, :83]
    torch.testing.assert_close(network.semantic_maps(image), at_size, atol=1e-5, rtol=1e-4)
    (found,) = network([{"image": image[0], "height": 31, "width": 107}])
    expected = resize_by_opencv(at_size[0], (31, 107))
    torch.testing.assert_close(found["sem_seg"], expected / expected.sum(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(50, 83), (9, 130), (16, 16)])
def test_any_size_in_the_same_size_out(make_network, size):
    network = make_network().eval()
    images = random_images(2, *size)
    maps = network.semantic_maps(images)
    assert maps.shape == (2, CLASSES, *size)
    assert torch.isfinite(maps).all()
    # As Detectron2 calls it: images of several sizes, the result at "height" × "width", normalised.
    inputs = [{"image": images[0], "height": 31, "width": 47}, {"image": random_images(1, 40, 24)[0]}]
    first, second = network(inputs)
    assert first["sem_seg"].shape == (CLASSES, 31, 47) and second["sem_seg"].shape == (CLASSES, 40, 24)
    torch.testing.assert_close(first["sem_seg"].sum(0), torch.ones(31, 47), atol=1e-4, rtol=0)
    assert torch.equal(network(inputs[:1])[0]["sem_seg"], first["sem_seg"])


def test_padding_is_cut_off_again(make_network):
    """Pixel (y, x) of the map belongs to pixel (y, x) of the image: padding by hand changes nothing."""
    network = make_network().eval()
    image = random_images(1, 50, 83)
    mean = network.pixel_mean.view(1, 3, 1, 1).expand(1, 3, 64, 96).clone()
    mean[:, :, :50, :83] = image
    torch.testing.assert_close(network.semantic_maps(image), network.semantic_maps(mean)[:, :, :50, :83], **ALONE)


# ---- training -----------------------------------------------------------------------------------------------------


def train_once(network, inputs):
    torch.manual_seed(3)
    losses = network.train()(inputs)
    sum(losses.values()).backward()
    return losses


def test_every_trained_weight_gets_a_gradient(make_network):
    network = make_network("MODEL.CLIP.TRAINABLE", "all")
    losses = train_once(network, labeled())
    assert {"loss_class_0", "loss_mask_2", "loss_dice", "loss_pixel", "loss_align", "loss_relevance"} <= set(losses)
    assert {"loss_prompt_topology", "loss_prompt_anchor"} <= set(losses)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in trained.items() if p.grad is None} == set()
    # A bias on all keys shifts all scores of a query alike, which a softmax undoes.
    without = {name for name, p in trained.items() if not p.grad.any() and not name.endswith("k_proj.bias")}
    assert without == set()
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("text_encoder.tower.") for name in frozen)
    assert all(p.grad is None for p in network.text_encoder.tower.parameters())
    assert network.text_encoder.prompts.grad.abs().sum() > 0


@pytest.mark.parametrize("which", ["one", "all"])
@pytest.mark.parametrize("assignment", ["fixed", "hungarian"])
def test_images_without_any_label_teach_nothing(make_network, which, assignment):
    """Finite losses and gradients; an image without labels changes neither, beside one that has some."""
    network = make_network("LOSS.ASSIGNMENT", assignment)
    inputs = labeled()
    for item in inputs if which == "all" else inputs[1:]:
        item["sem_seg"] = torch.full((64, 64), IGNORE)
    losses = train_once(network, inputs)
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    labeled_losses = {name: loss for name, loss in losses.items() if "prompt" not in name}
    if which == "all":
        assert all(loss == 0 for loss in labeled_losses.values())
    else:
        network.zero_grad()
        exact = {"loss_pixel", "loss_relevance", "loss_align"}  # those without points drawn at random
        alone = train_once(network, inputs[:1])
        for name in exact & set(alone):
            torch.testing.assert_close(labeled_losses[name], alone[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_told", [True, False])
def test_presence_comes_from_the_labels(make_network, is_told):
    """GROUND_TRUTH_PRESENCE decides whether the query generator is told the classes of labelled images."""
    network = make_network("MODEL.HSQG.GROUND_TRUTH_PRESENCE", is_told)
    seen = []
    network.query_generator.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    network(labeled(1))
    assert (seen[0].tolist() == [[False, True, True, False, False, False]]) if is_told else (seen[0] is None)


# ---- relevance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["queries", "pixel decoder", "query decoder"])
def test_relevance_acts_in_three_places(make_network, where):
    """Halving r of one class changes the result through q = r·MLP(t) and through each log r, every one by itself."""
    network = make_network("MODEL.HSQG.MIN_ACTIVE", CLASSES).eval()
    with torch.no_grad():
        text = network.encode_text()
        features = network.backbone(network.normalize(list(random_images(1))))
        queries = network.query_generator(text, features["pooled_embedding"])
        chosen = queries.classes == queries.classes[0, 1]
        halved_bias = queries._replace(log_relevance=queries.log_relevance - chosen * 0.6931)
        halved_queries = queries._replace(queries=queries.queries * (1 - 0.5 * chosen.unsqueeze(-1)))
        plain = network.query_decoder(network.pixel_decoder(features, queries), queries)
        pixels = network.pixel_decoder(
            features, {"queries": halved_queries, "pixel decoder": halved_bias}.get(where, queries)
        )
        halved = network.query_decoder(pixels, halved_bias if where == "query decoder" else queries)
    assert (plain.pred_logits[-1] - halved.pred_logits[-1]).abs().max() > 1e-4
    assert (plain.pred_masks[-1] - halved.pred_masks[-1]).abs().max() > 1e-4


def test_halving_the_relevance_changes_the_semantic_map(make_network, monkeypatch):
    network = make_network("MODEL.HSQG.MIN_ACTIVE", CLASSES).eval()
    images = random_images(1)
    before = network.semantic_maps(images)
    original = network.query_generator._relevance

    def halve(logits, presence):
        relevance, active = original(logits, presence)
        return relevance * torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 1.0]), active

    monkeypatch.setattr(network.query_generator, "_relevance", halve)
    assert (network.semantic_maps(images) - before).abs().max() > 1e-4


# ---- classifiers --------------------------------------------------------------------------------------------------


def test_classifiers_by_hand(make_network):
    """Probabilities sum to 1 and "no object" keeps the linear head's: "text" shares the rest by similarity, "mean" is
    the mean of both."""
    network = make_network().eval()
    text = network.encode_text()
    torch.manual_seed(0)
    joint = torch.nn.functional.normalize(torch.randn(2, 5, 32), dim=-1)
    rows = torch.full((2, 5), -1)
    predictions = QueryPredictions([torch.randn(2, 5, CLASSES + 1)], [], joint, rows, rows < 0)
    found = {}
    for classifier in ("linear", "text", "mean"):
        network.classifier = classifier
        found[classifier] = network.class_logits(predictions, text).softmax(-1)
        torch.testing.assert_close(found[classifier].sum(-1), torch.ones(2, 5))
    linear = predictions.pred_logits[0].softmax(-1)
    torch.testing.assert_close(found["linear"], linear)
    torch.testing.assert_close(found["text"][..., -1], linear[..., -1])
    similarity = joint @ text.text_embeddings.detach().T / 0.07
    by_text = similarity.softmax(-1) * (1 - linear[..., -1:])
    torch.testing.assert_close(found["text"][..., :-1], by_text, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["mean"], (found["text"] + linear) / 2, atol=1e-5, rtol=1e-4)


def test_classifier_rules_inference_alone(make_network):
    """In training the scores come from the linear head, which the losses teach."""
    networks = {name: make_network("MODEL.QUERY_DECODER.CLASSIFIER", name) for name in ("linear", "text")}
    images = random_images(1)
    maps = {name: network.eval().semantic_maps(images) for name, network in networks.items()}
    assert (maps["linear"] - maps["text"]).abs().max() > 1e-3
    scores = []
    for network in networks.values():
        text = network.train().encode_text()
        scores.append(network.semantic_scores(network.segment(network.normalize(list(images)), text), text))
    assert torch.equal(*scores)


def test_refuses_what_it_cannot_build(make_network):
    with pytest.raises(UserError, match="CLASSIFIER is one of linear, text, mean, not 'lineal'"):
        make_network("MODEL.QUERY_DECODER.CLASSIFIER", "lineal", trained=False)
    with pytest.raises(UserError, match="no class names"):
        make_network("MODEL.CLASS_NAMES", [], trained=False)


def test_text_queries_are_fitted_to_the_classes(make_network):
    """Without it the queries would see CLIP's narrow cone: its mean is taken when the network is built."""
    network = make_network("MODEL.TEXT.PROMPTS", 0)
    generator, text = network.query_generator, network.eval().encode_text()
    torch.testing.assert_close(generator.text_mean, text.text_embeddings.mean(0))
    assert generator.text_mean.norm() > 0.1
