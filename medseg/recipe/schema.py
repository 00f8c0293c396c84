"""The JSON schema of a recipe, for editors: `python -m medseg.recipe.schema [--check]`.

It is generated from the sections and kept in recipes/recipe.schema.json; `--check` ends with code 1
where the kept one is stale.
"""

import json
import sys
from pathlib import Path

from medseg.io.atomic import write_text
from medseg.recipe.recipe import Recipe
from medseg.shipped import shipped_folder

NAME = "recipe.schema.json"


def schema() -> str:
    """The schema as JSON text."""
    made = Recipe.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # `plan: auto` leaves the whole section to the planner.
    plan = made["properties"]["plan"]
    made["properties"]["plan"] = {"anyOf": [plan, {"const": "auto"}]}
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def kept() -> Path:
    """Where the schema is kept."""
    return shipped_folder("recipes") / NAME


def is_fresh() -> bool:
    """Whether the kept schema is that of the sections as they are."""
    path = kept()
    return path.is_file() and path.read_text(encoding="utf-8") == schema()


def main(arguments: list[str]) -> int:
    """Write the schema, or check the kept one."""
    if arguments == ["--check"]:
        if is_fresh():
            return 0
        sys.stderr.write(f"{kept()}: stale; run `python -m medseg.recipe.schema`.\n")
        return 1
    write_text(kept(), schema())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
