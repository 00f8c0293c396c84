"""What mamba_ssm calls the parts of a Mamba, in one order or in three."""

from medseg.models.checkpoints.filling import Rule

# The suffixes _b and _s tell the orders of the three-fold Mamba of SegMamba; alone there is none.
_ORDERS = {"": 0, "_b": 1, "_s": 2}
_PARTS = {
    r"conv1d{}\.": "conv.",
    r"x_proj{}\.": "coefficients.",
    r"dt_proj{}\.": "step.",
    r"A{}_log$": "log_decay",
    r"D{}$": "skip",
}

MAMBA: tuple[Rule, ...] = (
    (r"\.in_proj\.", ".proj_in."),
    (r"\.out_proj\.", ".proj_out."),
    *(
        (rf"(mamba\.){theirs.format(suffix)}", rf"\1scans.{number}.{ours}")
        for suffix, number in _ORDERS.items()
        for theirs, ours in _PARTS.items()
    ),
)
