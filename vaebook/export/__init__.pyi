from .codec import Codec as Codec
from .codec import Codes as Codes
from .latents import Latents as Latents
from .latents import digest as digest
from .latents import export_latents as export_latents
