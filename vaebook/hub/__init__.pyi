from .card import model_card as model_card
from .push import pack as pack
from .push import push_to_hub as push_to_hub
