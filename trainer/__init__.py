"""Plackett's trainer: a program that eats a run directory and writes into it.

    python -m trainer {sft,reward,dpo,kto,ppo,evaluate,sample,score} --run DIR

It knows no database, web or queue. `trainer.config` and `trainer.records` are the contract with the app
and use the standard library alone.
"""
