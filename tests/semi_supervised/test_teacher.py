"""The teacher: its average by hand, what it shares with the student, and when it encodes its text again."""

import pytest
import torch
from torch import nn

from hiervl.semi_supervised.teacher import EmaTeacher, StudentAsTeacher


class Student(nn.Module):
    """One weight that is trained, one that is frozen, one buffer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.trained = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("counter", torch.tensor(0.0))


def test_moving_average_by_hand():
    """Decay min(1 − 1/(t + 1), 0.6): 0, 1/2, 0.6 (not 2/3), 0.6; buffers are copied."""
    student = Student()
    teacher = EmaTeacher(student, max_decay=0.6)
    expected = [1.0, 0.5 * 1 + 0.5 * 2, 0.6 * 1.5 + 0.4 * 3, 0.6 * 2.1 + 0.4 * 4]
    for step, value in enumerate(expected):
        with torch.no_grad():
            student.trained.fill_(step + 1.0)
            student.counter.fill_(step)
        teacher.update(student, step)
        assert teacher.network.trained.item() == pytest.approx(value)
        assert teacher.network.counter.item() == step
    assert student.trained.item() == 4.0


def test_teacher_encodes_text_again_when_its_prompts_have_changed(make_network, monkeypatch):
    """Also where the averaging writes without counting it, as PyTorch's fused operation does on CUDA."""

    def lerp(own, followed, weight):
        for to, of in zip(own, followed):
            values = to.detach().numpy()
            values += weight * (of.detach().numpy() - values)

    monkeypatch.setattr(torch, "_foreach_lerp_", lerp)
    student = make_network(trained=False)
    teacher = EmaTeacher(student)
    before = teacher.network.encode_text().text_embeddings
    with torch.no_grad():
        student.text_encoder.prompts.add_(torch.randn_like(student.text_encoder.prompts))
    teacher.update(student, 0)
    torch.testing.assert_close(teacher.network.encode_text().text_embeddings, student.encode_text().text_embeddings)
    assert not torch.allclose(teacher.network.encode_text().text_embeddings, before)


def test_a_student_that_teaches_itself_encodes_text_again_after_every_step(make_network):
    student = make_network(trained=False).train()
    teacher = StudentAsTeacher(student)

    @torch.no_grad()
    def labels():
        teacher.network.eval()
        embeddings = teacher.network.encode_text().text_embeddings
        teacher.network.train()
        return embeddings

    before = labels()
    with torch.no_grad():
        student.text_encoder.prompts.add_(torch.randn_like(student.text_encoder.prompts))
    assert not torch.allclose(labels(), before)


def test_student_and_teacher_encode_text_again_after_loading(make_network):
    """As a trainer loads a checkpoint: the student's weights, then the teacher's; both share one text encoder."""
    torch.manual_seed(1)
    student = make_network(trained=False).eval()
    teacher = EmaTeacher(student)
    other = {name: weight + 0.1 * torch.randn_like(weight.float()) for name, weight in student.state_dict().items()}
    with torch.no_grad():
        before = [network.encode_text() for network in (student, teacher.network)]
        student.load_state_dict(other)
        loaded = student.encode_text()
        assert not torch.allclose(loaded.text_embeddings, before[0].text_embeddings)
        assert torch.equal(teacher.network.encode_text().prototypes, loaded.prototypes)
        teacher.load_state_dict({f"network.{name}": weight for name, weight in other.items()})
        assert torch.equal(teacher.network.encode_text().text_embeddings, loaded.text_embeddings)
        assert not torch.allclose(loaded.prototypes, before[1].prototypes)


def test_teacher_shares_what_is_frozen_and_is_never_trained(make_network):
    student = make_network(trained=False)
    teacher = EmaTeacher(student)
    for (name, own), followed in zip(teacher.network.named_parameters(), student.parameters()):
        assert (own.data_ptr() == followed.data_ptr()) == (not followed.requires_grad), name
    assert teacher.network.text_encoder.tower is student.text_encoder.tower
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = teacher.network.text_encoder.prompts.clone()
    with torch.no_grad():
        student.text_encoder.prompts.add_(1.0)
    assert torch.equal(teacher.network.text_encoder.prompts, before)
    teacher.update(student, 1)
    torch.testing.assert_close(teacher.network.text_encoder.prompts, before + 0.5)
