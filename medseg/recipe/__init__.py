"""Recipes: what to train, on what and how, in one YAML file that is checked before torch wakes."""

from medseg.recipe.loader import find_recipe, load_recipe
from medseg.recipe.recipe import Recipe

__all__ = ["Recipe", "find_recipe", "load_recipe"]
