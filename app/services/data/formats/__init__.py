"""Shapes of preference data: what each can hold, how a judgement is written in it, and how it is read back.

Pure and a line at a time; no database here.
"""
