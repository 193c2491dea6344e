"""The ``nc-fast`` command as ``python -m nc_fast``, and so ``torchrun -m nc_fast``."""

from nc_fast.command.main import main

if __name__ == "__main__":
    main()
