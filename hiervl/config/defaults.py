"""Every configuration key of HierVL, with its default and one line of explanation.

Keys that Detectron2 defines (``SOLVER.BASE_LR``, ``DATASETS.TRAIN``, ``OUTPUT_DIR`` …) keep their meaning.
:func:`add_hiervl_config` adds the keys below. The defaults are the paper's settings with CLIP ViT-B/16.
"""

from collections.abc import Callable

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

_OF_PLUG_INS: list[Callable[[CN], None]] = []


def get_hiervl_cfg() -> CN:
    """Detectron2's defaults with HierVL's keys and those of plug-ins added."""
    cfg = get_cfg()
    add_hiervl_config(cfg)
    for add in _OF_PLUG_INS:
        add(cfg)
    return cfg


def register_keys(add: Callable[[CN], None]) -> Callable[[CN], None]:
    """Decorator for a function that adds the keys of a plug-in to a config in place. From now on every config gets
    them."""
    _OF_PLUG_INS.append(add)
    return add


def add_hiervl_config(cfg: CN) -> None:
    """Add HierVL's keys to ``cfg`` in place."""
    _add_model_config(cfg)
    _add_decoder_config(cfg)
    _add_loss_config(cfg)
    _add_semi_supervised_config(cfg)
    _add_data_config(cfg)
    _add_folder_dataset_config(cfg)
    _add_solver_config(cfg)
    _add_test_config(cfg)
    # Loggers beside TensorBoard and metrics.json: "csv" (metrics.csv), "wandb" (Weights & Biases).
    cfg.LOGGERS = []


def _add_model_config(cfg: CN) -> None:
    # "HierVL", or "PixelClassifier": the baselines' plain per-pixel decoder on the same backbone.
    cfg.MODEL.META_ARCHITECTURE = "HierVL"
    cfg.MODEL.BACKBONE.NAME = "build_clip_image_encoder"
    cfg.MODEL.WEIGHTS = ""
    # Pixel statistics in 0…255, RGB; empty: those of the encoder of MODEL.CLIP.
    cfg.MODEL.PIXEL_MEAN = []
    cfg.MODEL.PIXEL_STD = []
    # Class names; empty: taken from the metadata of DATASETS.TRAIN[0].
    cfg.MODEL.CLASS_NAMES = []
    # Parts that are computed again in the backward pass, which needs less memory and more time: some of "encoder",
    # "pixel_decoder", "query_decoder" and "losses" (the mask losses).
    cfg.MODEL.RECOMPUTE = []

    cfg.MODEL.CLIP = CN()
    # An open_clip model name, the path of an open_clip model config (.json), or a model shipped with HierVL:
    # "imagenet-lite" (photographs, small) or "shapesworld" (the demo's drawings).
    cfg.MODEL.CLIP.NAME = "ViT-B-16-quickgelu"
    # An open_clip tag, a file of weights, the name of a model shipped with HierVL, "checkpoint" (to evaluate
    # MODEL.WEIGHTS, which contain them), or empty: random.
    cfg.MODEL.CLIP.PRETRAINED = "openai"
    # Folder of the tokenizer's files, for models whose tokenizer is on a hub (SigLIP); empty: it is downloaded.
    cfg.MODEL.CLIP.TOKENIZER = ""
    # ViTs: blocks (0-based) whose outputs become the maps of stride 1/4, 1/2, 1 and 2 patches; empty: the blocks at a
    # third, half, two thirds and the end (3, 5, 7, 11 of 12).
    cfg.MODEL.CLIP.BLOCKS = []
    # Which part of the image encoder is trained: "all", "attention" (attention and position embeddings; everything in
    # convolutional encoders, which have none) or "none".
    cfg.MODEL.CLIP.TRAINABLE = "attention"
    # Dense embedding: "maskclip" (value path, residual and feed-forward part of the last block, as MaskCLIP and SemiVL
    # compute it) or "value" (the value path alone, which ShapesWorld's CLIP was trained for).
    cfg.MODEL.CLIP.DENSE = "maskclip"
    # How many first stages are not trained, with everything before them. ViTs: number of blocks; convolutional
    # encoders: number of maps of stride 4, 8, 16 and 32. 0: TRAINABLE alone decides.
    cfg.MODEL.CLIP.FROZEN_STAGES = 0
    # ViTs: learnable tokens between the class token and the patches; 0 switches them off.
    cfg.MODEL.CLIP.VISUAL_PROMPTS = 8
    # ViTs: to how many maps, finest first, convolutions on the image are added; they keep outlines that patches lose.
    # With all 4 they are a small encoder of their own, for images unlike those that the ViT was trained on.
    cfg.MODEL.CLIP.DETAIL_MAPS = 1

    cfg.MODEL.ENCODER = CN()
    # An encoder of timm that was trained without language (DINOv2, DINOv3 …), in place of CLIP's image encoder. CLIP
    # stays frozen beside it for everything that needs language. MODEL.CLIP says what is trained. Empty: none.
    cfg.MODEL.ENCODER.NAME = ""
    # Its weights: "timm" (downloaded), a file, "checkpoint" (MODEL.WEIGHTS contain them), or empty: random.
    cfg.MODEL.ENCODER.PRETRAINED = "timm"

    cfg.MODEL.TEXT = CN()
    # Number of learnable tokens before every class phrase; 0: only the fixed template.
    cfg.MODEL.TEXT.PROMPTS = 8
    # The words that the learnable tokens start from; empty: noise.
    cfg.MODEL.TEXT.PROMPT_INIT = "this is a clear photo that shows a"
    # Describe classes by all their phrases; off: by their names alone.
    cfg.MODEL.TEXT.PHRASES = True
    # The fixed prompt of the prototypes; {} is the class phrase.
    cfg.MODEL.TEXT.TEMPLATE = "a photo of a {}."


def _add_decoder_config(cfg: CN) -> None:
    cfg.MODEL.HSQG = CN()
    # Abstraction levels: text queries per active class.
    cfg.MODEL.HSQG.LEVELS = 3
    # Gate the text queries by their class's relevance to the image; off: every class is active with relevance 1.
    cfg.MODEL.HSQG.RELEVANCE = True
    # In training, use the ground truth's presence as relevance on labelled images, instead of the gate (as in the
    # paper; off by default, because the network then relies on information that it lacks at inference).
    cfg.MODEL.HSQG.GROUND_TRUTH_PRESENCE = False
    # With GROUND_TRUTH_PRESENCE: how many absent classes of the highest relevance are active too, as "no object".
    cfg.MODEL.HSQG.HARD_NEGATIVES = 2
    # A class of at least this relevance is active. If CALIBRATED_RECALL is set, the calibrated value replaces it.
    cfg.MODEL.HSQG.THRESHOLD = 0.2
    # Share of the present classes in labelled images that passes the calibrated threshold; 0: no calibration.
    cfg.MODEL.HSQG.CALIBRATED_RECALL = 0.99
    # Least number of active classes in every image; the most relevant ones are taken.
    cfg.MODEL.HSQG.MIN_ACTIVE = 3
    # Background classes (by name): active in every image, without instances and without guidance by the frozen CLIP.
    cfg.MODEL.HSQG.ALWAYS_ACTIVE = ["background"]

    # A published Mask2Former checkpoint whose decoders training starts from, as far as shapes fit. Empty: random.
    cfg.MODEL.DECODER_WEIGHTS = ""

    cfg.MODEL.PIXEL_DECODER = CN()
    # A name of the registry PIXEL_DECODER_REGISTRY.
    cfg.MODEL.PIXEL_DECODER.NAME = "build_deformable_pixel_decoder"
    # Width d of the pixel decoder, the queries and the masks.
    cfg.MODEL.PIXEL_DECODER.DIM = 256
    # Deformable self-attention layers over the three coarser maps.
    cfg.MODEL.PIXEL_DECODER.LAYERS = 6
    # Attention heads.
    cfg.MODEL.PIXEL_DECODER.HEADS = 8
    # Sampling points per head and map.
    cfg.MODEL.PIXEL_DECODER.POINTS = 4
    # Width of the feed-forward part.
    cfg.MODEL.PIXEL_DECODER.FEEDFORWARD = 1024

    cfg.MODEL.CMSAM = CN()
    # Text queries attend to the pixels after every deformable layer (eq. 1).
    cfg.MODEL.CMSAM.TEXT_READS_PIXELS = True
    # Pixels attend to the active text queries after every deformable layer.
    cfg.MODEL.CMSAM.PIXELS_READ_TEXT = True

    cfg.MODEL.QUERY_DECODER = CN()
    # A name of the registry QUERY_DECODER_REGISTRY.
    cfg.MODEL.QUERY_DECODER.NAME = "build_dual_query_decoder"
    # Masked-attention layers.
    cfg.MODEL.QUERY_DECODER.LAYERS = 9
    # Attention heads.
    cfg.MODEL.QUERY_DECODER.HEADS = 8
    # Width of the feed-forward part.
    cfg.MODEL.QUERY_DECODER.FEEDFORWARD = 2048
    # Decode the text queries; off: only CMSAM uses them.
    cfg.MODEL.QUERY_DECODER.TEXT_QUERIES = True
    # Number of learnable instance queries; 0 switches them off.
    cfg.MODEL.QUERY_DECODER.INSTANCE_QUERIES = 100
    # The masks of text queries start from the similarity of CLIP's dense embedding to their class.
    cfg.MODEL.QUERY_DECODER.MASK_PRIOR = True
    # They also start from the similarity of the pixel decoder's features to their class, which LOSS.PIXEL teaches.
    cfg.MODEL.QUERY_DECODER.PIXEL_PRIOR = False
    # Classes with a lower IoU (0 to 1) of the frozen CLIP on labelled images have no start from CLIP.
    cfg.MODEL.QUERY_DECODER.PRIOR_MIN_IOU = 0.02
    # Each instance query starts at a place of its own where that similarity has a peak; needs MASK_PRIOR.
    cfg.MODEL.QUERY_DECODER.INSTANCE_SEEDS = True
    # Class scores at inference: "linear" (the C + 1 head), "text" (similarity to the text embeddings) or "mean".
    cfg.MODEL.QUERY_DECODER.CLASSIFIER = "linear"
    # Temperature of the similarity between queries and text, and of loss_prompt_anchor.
    cfg.MODEL.QUERY_DECODER.TEMPERATURE = 0.07


def _add_loss_config(cfg: CN) -> None:
    cfg.LOSS = CN()
    # How queries get targets: "fixed" (text queries by class, instance queries by matching) or "hungarian" (matching).
    cfg.LOSS.ASSIGNMENT = "fixed"
    # Weight of the classification of every query (loss_class); also its cost in the matching.
    cfg.LOSS.CLASS = 2.0
    # Weight of "no object" inside loss_class.
    cfg.LOSS.NO_OBJECT = 0.1
    # Weight of the point-sampled binary cross-entropy (loss_mask); also its cost in the matching.
    cfg.LOSS.MASK = 5.0
    # Weight of the dice loss (loss_dice); also its cost in the matching.
    cfg.LOSS.DICE = 5.0
    # Points at which masks are compared.
    cfg.LOSS.NUM_POINTS = 12544
    # Candidates drawn per kept point; the most uncertain ones are kept.
    cfg.LOSS.OVERSAMPLE_RATIO = 3.0
    # Share of the points kept for their uncertainty; the rest is uniform.
    cfg.LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Weight of the pixel cross-entropy of the normalised semantic map (loss_pixel).
    cfg.LOSS.PIXEL = 1.0
    # Exponent of the inverse class frequency (in the batch) that weights pixels in pixel losses, also of pseudo-labels.
    # 0: all alike; 0.5: a pixel of a class with 1 % of the pixels counts ten times as much as one of all pixels' class.
    cfg.LOSS.PIXEL_BALANCE = 0.0
    # Weight of the alignment of matched instance queries with their class's text (loss_align, eq. 2).
    cfg.LOSS.ALIGN = 0.5
    # Weight of the gate's binary cross-entropy on labelled images (loss_relevance).
    cfg.LOSS.RELEVANCE = 1.0
    # Weight of keeping CLIP's angles between classes (loss_prompt_topology, eq. 3).
    cfg.LOSS.PROMPT_TOPOLOGY = 1.0
    # Weight of keeping every prompt near its prototype (loss_prompt_anchor, eq. 4).
    cfg.LOSS.PROMPT_ANCHOR = 0.1
    # Weight of separating the classes in eq. 4, relative to the anchor (the paper's lambda).
    cfg.LOSS.PROMPT_SEPARATION = 1.0
    # Weight of the entropy of the strong views' semantic maps (loss_entropy).
    cfg.LOSS.ENTROPY = 0.01
    # Weight of staying close to the frozen CLIP on patches hidden from the encoder (loss_masked_consistency, eq. 6).
    cfg.LOSS.MASKED_CONSISTENCY = 0.1
    # With MODEL.ENCODER: weight of learning the frozen CLIP's embedding at every position (loss_joint_embedding).
    cfg.LOSS.JOINT_EMBEDDING = 1.0
    # Weight of predicting the class of hidden patches by its text (loss_pixel_text, eq. 7).
    cfg.LOSS.PIXEL_TEXT = 0.01
    # Temperature of loss_pixel_text.
    cfg.LOSS.PIXEL_TEXT_TEMPERATURE = 0.07


def _add_semi_supervised_config(cfg: CN) -> None:
    cfg.SEMI = CN()
    # Learn from unlabelled images; off: supervised training of the same network.
    cfg.SEMI.ENABLED = True
    # The network that makes pseudo-labels: "ema" (mean teacher) or "student" (the student in evaluation mode).
    cfg.SEMI.TEACHER = "ema"
    # Largest decay of the teacher's moving average; at step t it is min(1 - 1/(t + 1), EMA_DECAY).
    cfg.SEMI.EMA_DECAY = 0.996
    # Iterations trained on labelled images alone before pseudo-labels are used.
    cfg.SEMI.BURN_IN = 0
    # Pixels of at least this confidence keep their pseudo-label.
    cfg.SEMI.CONFIDENCE = 0.95
    # "fixed": CONFIDENCE for all; "class": lower for classes in which the teacher is less confident on average;
    # "adaptive": the same with the teacher's mean confidence in place of CONFIDENCE (FreeMatch).
    cfg.SEMI.THRESHOLD = "fixed"
    # Loss of the pseudo-labels: "pixel" (cross-entropy of the final semantic map) or "set" (beside LOSS.PIXEL the
    # class, mask and dice losses of the text queries after every decoder layer, as on labelled images).
    cfg.SEMI.LOSS = "pixel"
    # Strongly augmented views of every unlabelled image: 1 or 2.
    cfg.SEMI.STRONG_VIEWS = 2
    # Weight of each strongly augmented view (loss_strong1, loss_strong2). This weight, the next one, GUIDANCE_WEIGHT
    # and LOSS.ENTROPY are shares: with 1 the gradient is about as large as that of all losses of labelled images.
    cfg.SEMI.STRONG_WEIGHT = 0.25
    # Weight of the weak view whose encoder maps lose channels (loss_feature_perturbation).
    cfg.SEMI.PERTURBATION_WEIGHT = 0.5
    # Probability that a channel is dropped there.
    cfg.SEMI.PERTURBATION_DROPOUT = 0.5
    # Weight of the frozen CLIP's dense prediction as labels (loss_clip_guidance) at the first iteration; 0: none.
    cfg.SEMI.GUIDANCE_WEIGHT = 0.1
    # Its weight at the last iteration, reached linearly.
    cfg.SEMI.GUIDANCE_LAST_WEIGHT = 0.0
    # Pixels of at least this zero-shot probability are guided.
    cfg.SEMI.GUIDANCE_CONFIDENCE = 0.9
    # Where the zero-shot softmax is taken: of "patches", before resizing, or of "pixels", after it (as SemiVL's code).
    cfg.SEMI.GUIDANCE_SOFTMAX = "patches"
    # Also use the frozen CLIP's background predictions, as SemiVL does.
    cfg.SEMI.GUIDANCE_OF_BACKGROUND = False
    # Classes with a lower IoU (0 to 1) of the frozen CLIP on labelled images give no guidance.
    cfg.SEMI.GUIDANCE_MIN_IOU = 0.02
    # Iterations between two checks of the pseudo-labels (health.json, warnings); 0: none.
    cfg.SEMI.HEALTH_PERIOD = 500
    # Whenever health finds that pseudo-labels drive classes out, on images of DATASETS.TEST's first dataset, halve the
    # weight of unlabelled images; double it again, up to its full weight, when it does no more.
    cfg.SEMI.ADAPT_WEIGHT = False
    # Iterations between two pictures of views, pseudo-labels and predictions; 0: none.
    cfg.SEMI.PICTURES_PERIOD = 0
    # First train the same network on the labelled images alone; at the end report the gain from unlabelled images.
    cfg.SEMI.COMPARE_SUPERVISED = False
    # Share of the losses of labelled images in the sum; those of unlabelled images get the rest of 1.
    cfg.SEMI.SUPERVISED_SHARE = 0.5
    # Probability that a labelled image or a strong view takes on the colours of another unlabelled image: mean and
    # spread of its channels move part of the way. It helps where unlabelled images were taken in another light.
    cfg.SEMI.COLOR_TRANSFER = 0.0
    # The teacher looks twice, once with the colours of a labelled image; what its mean is sure of is learnt.
    cfg.SEMI.COLOR_AGREEMENT = False
    # Probability that a strong view receives a box of another image of the batch.
    cfg.SEMI.CUTMIX_PROBABILITY = 0.5
    # Probability that a strong view receives half of the classes of a labelled image, with their true labels (DACS).
    cfg.SEMI.CLASS_MIX = 0.0


def _add_data_config(cfg: CN) -> None:
    # Registered datasets of unlabelled images; their labels, if any, are never read.
    cfg.DATASETS.UNLABELED = ()
    # Unlabelled images that cannot be read are left out. If they are more than this share, training stops.
    cfg.DATALOADER.MAX_DAMAGED = 0.05
    # Training stops after this many seconds without a batch from the data workers; 0: it waits forever.
    cfg.DATALOADER.TIMEOUT = 600
    cfg.INPUT.FORMAT = "RGB"
    # Side of the square training crop, and of the sliding window, in pixels.
    cfg.INPUT.CROP_SIZE = 512
    # Images are first resized to this shorter side, in training and evaluation; 0 keeps their own size.
    cfg.INPUT.SHORT_SIDE = 0
    # Range of the random resize.
    cfg.INPUT.SCALE = (0.5, 2.0)
    # Probability of the horizontal flip.
    cfg.INPUT.FLIP_PROBABILITY = 0.5
    # For labelled images without instances, instance queries learn connected regions of a class; off: the whole class.
    cfg.INPUT.REGIONS_AS_INSTANCES = True

    cfg.INPUT.STRONG = CN()
    # Probability of the colour jitter.
    cfg.INPUT.STRONG.JITTER_PROBABILITY = 0.8
    # Strengths of brightness, contrast, saturation and hue inside the jitter.
    cfg.INPUT.STRONG.JITTER = (0.5, 0.5, 0.5, 0.25)
    # Probability that a view becomes grey.
    cfg.INPUT.STRONG.GRAYSCALE_PROBABILITY = 0.2
    # Probability of the Gaussian blur.
    cfg.INPUT.STRONG.BLUR_PROBABILITY = 0.5
    # Range of the blur's standard deviation, in pixels.
    cfg.INPUT.STRONG.BLUR_SIGMA = (0.1, 2.0)


def _add_folder_dataset_config(cfg: CN) -> None:
    cfg.DATASET = CN()
    # Name of the dataset in your own folders; it sets DATASETS.TRAIN, UNLABELED and TEST. Empty: there is none.
    cfg.DATASET.NAME = ""
    # Folder of the paths below, relative to the YAML file; empty: the YAML file's folder.
    cfg.DATASET.ROOT = ""
    # YAML file of the classes, relative to the YAML file that names it.
    cfg.DATASET.CLASSES = ""
    cfg.DATASET.LABELED = CN()
    # Folder of the images that have masks, subfolders included.
    cfg.DATASET.LABELED.IMAGES = ""
    # Folder of their masks (same stems), or a file or folder of annotations of another format (see FORMAT).
    cfg.DATASET.LABELED.MASKS = ""
    # List file of the images whose masks training may see, such as `hiervl split` writes; empty: all.
    cfg.DATASET.LABELED.LIST = ""
    # Folders (or .txt list files) of images without masks: one, or a list of them.
    cfg.DATASET.UNLABELED = None
    # Validation images: a fraction of the labelled ones, a list file, or {IMAGES: …, MASKS: …}; None: 0.2.
    cfg.DATASET.VAL = None
    # Test images, in the same three forms; None: none. `--eval-only DATASETS.TEST "('NAME_test',)"` evaluates on them.
    cfg.DATASET.TEST = None
    # Format of the annotations: "auto" (by their content), "masks", "per_class" (a mask of two values for every class),
    # "coco", "cvat", "label_studio", "via", "labelme", "yolo" or "supervisely".
    cfg.DATASET.FORMAT = "auto"
    # What an image is that annotation files list without objects: "background" (meant so), "unlabeled" (left out of the
    # labelled ones) or "auto" (background, with a warning).
    cfg.DATASET.EMPTY_ANNOTATIONS = "auto"
    # What a mask's pixels mean: "index" (a number), "color" (an RGB colour) or "auto" (by the file).
    cfg.DATASET.MASK_VALUES = "auto"
    # What a mask's name has after the common part of both names, such as "_mask"; or a pattern, "label_{}".
    cfg.DATASET.MASK_SUFFIX = ""
    # The same for the images' names, such as "_sat" or "image_{}". With folders: "images/{}" and "masks/{}" where
    # IMAGES and MASKS are one folder that holds scene_1/images, scene_1/masks and so on.
    cfg.DATASET.IMAGE_SUFFIX = ""
    # Name of the map in a NumPy or MATLAB mask file with several, such as GTcls.Segmentation; empty: the only one.
    cfg.DATASET.MASK_VARIABLE = ""
    # Bands of TIFFs that are red, green and blue, counted from 1, such as [4, 3, 2]; empty: up to 4 are read.
    cfg.DATASET.BANDS = []
    # Values of those bands that become black and white, such as [0, 3000]; empty: the full range of the file's type.
    cfg.DATASET.BAND_RANGE = []
    # Random seed for the fractions.
    cfg.DATASET.SEED = 0
    # Folder for converted masks; empty: ~/.cache/hiervl.
    cfg.DATASET.CACHE = ""


def _add_solver_config(cfg: CN) -> None:
    # Labelled images per iteration, over all processes.
    cfg.SOLVER.IMS_PER_BATCH = 8
    # Unlabelled images per iteration, over all processes.
    cfg.SOLVER.UNLABELED_PER_BATCH = 8
    # Passes over the unlabelled images; sets SOLVER.MAX_ITER. 0: SOLVER.MAX_ITER as written.
    cfg.SOLVER.EPOCHS = 0
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # Learning rate of the image encoder, as a multiple of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.01
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.WARMUP_ITERS = 0
    # Exponent of the polynomial decay.
    cfg.SOLVER.POLY_POWER = 0.9
    # Number of micro-batches whose gradients are added before each step; the batch sizes above are for one step. A loss
    # is a mean over the labelled pixels and queries of its micro-batch, so pixels of images with few labels weigh more.
    cfg.SOLVER.ACCUMULATION = 1
    # How many steps with an infinite or NaN loss or gradient are skipped; one more ends the training.
    cfg.SOLVER.MAX_SKIPPED_STEPS = 0
    # If GPU memory is too small, divide micro-batches as ACCUMULATION does (only with one process).
    cfg.SOLVER.HALVE_ON_OUT_OF_MEMORY = True
    # Number type of mixed precision (SOLVER.AMP.ENABLED), also for evaluation on CUDA: "bfloat16" or "float16".
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # Automatic settings: "auto" (by this machine), "24gb", "cpu" or "none"; empty: auto where DATASET.NAME is set.
    cfg.SOLVER.PRESET = ""
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SEED = 0


def _add_test_config(cfg: CN) -> None:
    # Which network is evaluated: "teacher" (the moving average) or "student".
    cfg.TEST.NETWORK = "teacher"
    # Share by which neighbouring sliding windows overlap.
    cfg.TEST.OVERLAP = 0.5
    # Windows that go through the network at once.
    cfg.TEST.WINDOW_BATCH = 4
    # Images, from all over the dataset, drawn as image | truth | prediction at the end of an evaluation; 0: none.
    cfg.TEST.PICTURES = 8
