"""The zoo: one file per family, ``seed_<family>.py``; each is gathered because it exists (:mod:`seed_hub.catalog`).

timm files its models under the last part of a module's name, so a file called ``resnet.py`` here would land among
timm's own ResNets: hence the prefix.
"""
