"""DiCENets and exported networks as models of timm.

Importing this package registers ``dicenet_010`` to ``dicenet_240``, and ``dicenas_network`` for any other architecture;
:func:`register_exported` adds a folder that ``dicenas export`` wrote. From then on they are models like timm's own::

    import timm
    import dicenas.integrations.timm

    model = timm.create_model("dicenet_100", num_classes=10)
    backbone = timm.create_model("dicenet_100", features_only=True, out_indices=(2, 3, 4))
"""

try:
    import timm  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "timm":
        raise
    raise ModuleNotFoundError(
        "dicenas.integrations.timm needs timm: pip install 'dicenas[export]' brings it", name="timm"
    ) from error

from dicenas.integrations.timm.models import register_exported
from dicenas.integrations.timm.network import ClassifierHead, TimmNetwork

__all__ = ["ClassifierHead", "TimmNetwork", "register_exported"]
