"""The names of all families of networks, and where their rows stand.

To add a family, write its folder (config, network, reader of other programs' files, row) and name
its row here. The rows are imported when they are needed, because networks load torch and the help
only shows the names.
"""

FAMILIES: dict[str, dict[str, str]] = {
    "tokenizer": {
        "titok": "models.titok.foreign:FAMILY",
        "llamagen": "models.llamagen.vqgan:FAMILY",
        "maskgit_vqgan": "models.maskgit_vqgan.foreign:FAMILY",
        "maskbit": "models.maskbit.foreign:TOKENIZER",
        "ibq": "models.ibq.vqgan:FAMILY",
        "amused": "models.amused.vqgan:FAMILY",
        "vqgan": "models.vqgan.foreign:FAMILY",
    },
    "transformer": {
        "halton": "models.halton.foreign:FAMILY",
        "maskbit": "models.maskbit.foreign:TRANSFORMER",
        "google": "models.google.foreign:FAMILY",
        "titok": "models.titok.generators:FAMILY",
        "dimo": "models.dimo.student:FAMILY",
        "maskgit": "models.maskgit.foreign:FAMILY",
        "modern": "models.modern.transformer:FAMILY",
    },
}
"""Kind of network -> name of a family -> its row, as `module:name`, in the order of asking them."""
