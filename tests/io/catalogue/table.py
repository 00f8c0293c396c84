"""The whole catalogue."""

from tests.io.catalogue.case import Case
from tests.io.catalogue.headers import headers
from tests.io.catalogue.sound_inputs import readable
from tests.io.catalogue.streams import streams
from tests.io.catalogue.voxels import voxels
from tests.io.catalogued import Catalogue

CATALOGUE: Catalogue[Case] = Catalogue((*streams(), *headers(), *voxels()), tuple(readable()))
