"""What a model was made from and by what, for its files: GLB, pictures and USDZ.

It follows from the inputs, the weights and the code alone. So the same job gives the same bytes wherever and whenever it runs;
its id and its times are in the row.
"""

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from PIL.PngImagePlugin import PngInfo

from worker import __version__
from worker.engines import TRAINED
from worker.engines.presets import Preset
from worker.engines.surface import Engine, Role

# Terms of IPTC's vocabulary Digital Source Type, which C2PA, Google and schema.org use too.
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{VOCABULARY}trainedAlgorithmicMedia"  # "Created using Generative AI": the network invents what no photo shows
COMPUTED = (
    f"{VOCABULARY}algorithmicMedia"  # "created purely by an algorithm not based on any sampled training data"
)
CUT_OUT = f"{VOCABULARY}algorithmicallyEnhanced"  # a photo whose background an algorithm removed; its subject is as it was

DETAILS = ("precision", "weights_sha256")  # of an engine's details; the others say where it ran

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def describe(engine: Engine, preset: Preset, photos: Mapping[Role, str]) -> dict[str, Any]:
    """Return what is written into the files of a model: JSON-able.

    Args:
        engine: that makes it.
        preset: that it is made with.
        photos: the sha256 of the photo that is used for each role.
    """
    return {
        "digital_source_type": GENERATED if engine.name in TRAINED else COMPUTED,
        "worker_version": __version__,
        "engine": engine.name,
        "engine_version": engine.version,
        **{key: engine.details[key] for key in DETAILS if key in engine.details},
        "preset": preset.name,
        "photos": dict(photos),
    }


def xmp(made_by: Mapping[str, Any]) -> bytes:
    """Return the XMP packet of a picture of the model that `describe` describes."""
    properties = {
        "Iptc4xmpExt:DigitalSourceType": made_by["digital_source_type"],
        "xmp:CreatorTool": f"shop-model-worker {made_by['worker_version']}",
        "dc:source": " ".join(f"{role}=sha256:{digest}" for role, digest in made_by["photos"].items()),
    }
    if made_by["digital_source_type"] == GENERATED:
        # Since IPTC's Photo Metadata Standard 2025.1.
        properties["Iptc4xmpExt:AISystemUsed"] = made_by["engine"]
        properties["Iptc4xmpExt:AISystemVersionUsed"] = made_by.get(
            "weights_sha256", made_by["engine_version"]
        )
    lines = (f"   <{name}>{escape(value)}</{name}>" for name, value in properties.items())
    return XMP.format(properties="\n".join(lines)).encode()


def png_info(made_by: Mapping[str, Any]) -> PngInfo:
    """Return the chunk of a PNG that holds the XMP packet."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(made_by).decode())
    return info


def of_cutout(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written into the front photo's cut-out. No engine has touched it."""
    return {**made_by, "digital_source_type": CUT_OUT, "photos": {"front": made_by["photos"]["front"]}}
