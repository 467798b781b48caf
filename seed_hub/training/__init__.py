"""Distil any self-supervised teacher into any student, or pretrain without one."""
