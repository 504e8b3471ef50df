"""Load all image sets that are not there yet, compare their checksums, and say where they are.

python -m tools.data
"""

import sys

from lazylib.problems import images


def main() -> int:
    missing = []
    for name, chosen in images.SETS.items():
        try:
            found = images.read(name)
        except (images.DataMissing, ValueError) as error:
            missing.append(chosen.title)
            print(error, file=sys.stderr)
        else:
            print(
                f"{chosen.title}: {len(found.x)} + {len(found.x_test)} images, whole, in {images.where(name)}",
                flush=True,
            )
    if missing:
        print(f"Not to be had: {', '.join(missing)}.", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
