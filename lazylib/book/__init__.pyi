from . import chapter as chapter
from . import ledger as ledger
from . import parameters as parameters
from . import plot as plot
from . import provenance as provenance
from . import stats as stats
from . import widgets as widgets
