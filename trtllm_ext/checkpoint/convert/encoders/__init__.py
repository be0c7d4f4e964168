"""Every architecture that is converted whole, as an Encoder."""

from trtllm_ext.checkpoint.convert.encoders import bert, distilbert
from trtllm_ext.checkpoint.convert.encoders.plan import plan_encoder
from trtllm_ext.checkpoint.convert.encoders.spec import EncoderArchitecture

ENCODER_ARCHITECTURES: tuple[EncoderArchitecture, ...] = (*bert.ARCHITECTURES, *distilbert.ARCHITECTURES)

__all__ = ["ENCODER_ARCHITECTURES", "EncoderArchitecture", "plan_encoder"]
