import torch
from torch import nn

from lightning_samseg.semi.teacher import make_teacher, update_teacher


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_a_teacher_is_a_copy_without_gradients_that_shares_what_is_frozen() -> None:
    student = network()
    student[0].bias.requires_grad_(False)
    teacher = make_teacher(student)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert student[0].weight.requires_grad
    assert teacher[0].bias.data_ptr() == student[0].bias.data_ptr()
    assert teacher[0].weight.data_ptr() != student[0].weight.data_ptr()
    assert torch.equal(teacher[0].weight, student[0].weight)


def moved(decay: float, buffers: bool) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """A teacher before and after an update, and the student."""
    torch.manual_seed(0)
    student, before = network(), network()
    student(torch.rand(3, 1, 4, 4))
    for _ in range(7):
        before(torch.rand(3, 1, 4, 4))
    after = make_teacher(before)
    update_teacher(after, student, decay, buffers)
    return before, after, student


def test_parameters_move_and_buffers_stay() -> None:
    before, after, student = moved(0.75, buffers=False)
    torch.testing.assert_close(after[0].weight, 0.75 * before[0].weight + 0.25 * student[0].weight)
    assert torch.equal(after[1].running_mean, before[1].running_mean)
    assert after[1].num_batches_tracked == 7


def test_buffers_move_too_and_counters_are_truncated() -> None:
    before, after, student = moved(0.75, buffers=True)
    torch.testing.assert_close(after[1].running_var, 0.75 * before[1].running_var + 0.25 * student[1].running_var)
    assert after[1].num_batches_tracked == 5  # of 0.75 * 7 + 0.25 * 1 = 5.5


def test_no_decay_copies() -> None:
    _, after, student = moved(0.0, buffers=True)
    for own, other in zip(after.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(own, other)
