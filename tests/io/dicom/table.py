"""The whole catalogue."""

from tests.io.catalogued import Catalogue
from tests.io.dicom.case import Case
from tests.io.dicom.refused_files import refused_files
from tests.io.dicom.refused_series import refused_series
from tests.io.dicom.sound_series import readable

CATALOGUE: Catalogue[Case] = Catalogue((*refused_series(), *refused_files()), tuple(readable()))
