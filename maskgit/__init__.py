"""The public interface under one name, for notebooks and programs: open, sample, edit."""

from maskgit import folders  # noqa: F401 (first: the imports below need it)
from maskgit.models.model import Model
from maskgit.models.open import load_model, load_tokenizer
from maskgit.models.sampling import SamplingConfig
from maskgit.models.steps import DecodedStep
from maskgit.models.tokenizer import Tokenizer
from maskgit.utils.errors import FieldError, UserError
from maskgit.utils.version import VERSION

__all__ = [
    "VERSION",
    "DecodedStep",
    "FieldError",
    "Model",
    "SamplingConfig",
    "Tokenizer",
    "UserError",
    "load_model",
    "load_tokenizer",
]
