"""Text for models: tokenizers, chat templates, detokenisation while an answer comes."""

from tributary.text.chat_template import ChatError, ChatTemplate, load_chat_template
from tributary.text.detokenizer import Detokenizer
from tributary.text.files import ModelFolderError
from tributary.text.model_text import ModelText, SamplingDefaults, load_model_text
from tributary.text.stop_strings import StopStrings
from tributary.text.tokenizer import EncodeError, Tokenizer, load_tokenizer

__all__ = ["ChatError", "ChatTemplate", "Detokenizer", "EncodeError", "ModelFolderError", "ModelText",
           "SamplingDefaults", "StopStrings", "Tokenizer", "load_chat_template", "load_model_text", "load_tokenizer"]
