"""The names of all families of networks, and where their rows stand.

To add a family, write its folder (config, network, reader of other programs' files, row) and name
its row here. The rows are imported when they are needed, because networks load torch and the help
only shows the names.
"""

FAMILIES: dict[str, dict[str, str]] = {
    "tokenizer": {
        "titok": ".titok.foreign:FAMILY",
        "llamagen": ".llamagen.vqgan:FAMILY",
        "maskgit_vqgan": ".maskgit_vqgan.foreign:FAMILY",
        "maskbit": ".maskbit.foreign:TOKENIZER",
        "ibq": ".ibq.vqgan:FAMILY",
        "amused": ".amused.vqgan:FAMILY",
        "vqgan": ".vqgan.foreign:FAMILY",
    },
    "transformer": {
        "halton": ".halton.foreign:FAMILY",
        "maskbit": ".maskbit.foreign:TRANSFORMER",
        "google": ".google.foreign:FAMILY",
        "titok": ".titok.generators:FAMILY",
        "dimo": ".dimo.student:FAMILY",
        "maskgit": ".maskgit.foreign:FAMILY",
        "modern": ".modern.transformer:FAMILY",
    },
}
"""Kind of network -> name of a family -> its row, as `module:name`, in the order of asking them.

A module that begins with a point is in this folder, also where this program is a package.
"""
