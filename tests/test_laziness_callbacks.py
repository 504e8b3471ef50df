"""The two callbacks of chapter 13, run in the training frameworks themselves, as the chapter prints them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lazylib import laziness
from lazylib.problems import _torchvision  # noqa: F401  the frameworks import torchvision, which may need its help
from tools.pages import ROOT

STEPS = [0, 1, 2, 3, 4]


def printed(framework):
    """The example of the chapter that speaks of a framework."""
    cells = json.loads((ROOT / "chapters/13_your_model.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    (example,) = [part.partition("```")[0] for part in text.split("```python\n") if f"import {framework}" in part]
    assert len(example.splitlines()) <= 15
    return example


def check(tracker, model, **given):
    assert [record["step"] for record in tracker.records] == STEPS
    report = laziness.compare(tracker.before, model.eval(), **given)
    for name in ("displacement", "linear-model gap"):
        assert tracker.records[-1][name] == pytest.approx(report[name], rel=1e-4)
        assert report[name] > 0
    return report


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning(precision):
    lightning = pytest.importorskip("lightning", reason="Lightning is optional and not installed")

    class Fit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return (self(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    torch.manual_seed(0)
    model, x, y = Fit(), torch.randn(16, 3), torch.randn(16, 2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    options = dict(max_epochs=1, accelerator="cpu", precision=precision, **quiet)
    names = {"model": model, "x": x, "y": y, "loader": DataLoader(TensorDataset(x, y), 4), "options": options}
    exec(printed("lightning").replace("Trainer(", "Trainer(**options, "), names)
    check(names["tracker"], model, x=x, y=y)
    assert isinstance(names["tracker"], laziness.Tracker)


@pytest.mark.parametrize("mixed", [False, True])
def test_hugging_face(mixed, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional and not installed")
    pytest.importorskip("accelerate", reason="accelerate, which transformers trains with, is not installed")
    torch.manual_seed(0)
    sizes = dict(n_embd=8, n_layer=1, n_head=2, n_positions=8, vocab_size=11, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    other, ids = copy.deepcopy(model), torch.randint(11, (16, 6))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    data = [{"input_ids": row, "labels": row} for row in ids]
    options = transformers.TrainingArguments(
        tmp_path, per_device_train_batch_size=4, num_train_epochs=1, use_cpu=True, bf16=mixed, report_to=[],
        save_strategy="no", disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    names = {"model": model, "inputs": given, "ids": ids, "data": data, "options": options}
    exec(printed("transformers"), names)
    report = check(names["tracker"], model, x=given, y=names["y"], output=names["output"])
    if mixed:  # the trainer has put mixed precision into the model's forward
        other.load_state_dict(model.state_dict())
        again = laziness.compare(names["tracker"].before, other.eval(), given, names["y"], output=names["output"])
        assert again.measures == report.measures
