"""Put the packaged default model into a folder, at image build: `python bake_model.py /models`"""

import shutil
import sys
from pathlib import Path

from generator.base_model import PACKAGED_NAME, resolve_base_model

target = Path(sys.argv[1]) / PACKAGED_NAME
# Contents alone: the cache that they come from is its owner's, and the container's user is another one.
shutil.copytree(resolve_base_model(PACKAGED_NAME), target, copy_function=shutil.copyfile)
target.chmod(0o755)
print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) >> 20} MiB")
