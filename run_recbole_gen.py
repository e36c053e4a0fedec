"""Run recbole_gen from a checkout: `python run_recbole_gen.py --model=NAME --dataset=NAME`."""

from recbole_gen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
