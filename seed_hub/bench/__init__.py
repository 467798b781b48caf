"""How fast is a distillation step, stage by stage, and how far from the floor and from the published way of doing it."""
