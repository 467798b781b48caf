"""``torch.hub.load("seed-hub/seed-hub", "seed_resnet18")``: the students of the zoo, with timm's keyword arguments."""

# torch.hub shows every public name here as a model, hence the underscores.
from seed_hub.catalog import students as _students

dependencies = ["torch", "timm", "safetensors", "huggingface_hub"]

globals().update({_name: _student.entrypoint for _name, _student in _students().items()})
