"""python -m generator.training CONFIG.toml FOLDER"""

import sys
from pathlib import Path

from generator.training.settings import TrainingSettings
from generator.training.trainer import Trainer

Trainer(TrainingSettings.read(Path(sys.argv[1])), Path(sys.argv[2])).train()
