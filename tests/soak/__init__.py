"""Long runs under faults: writers that keep ledgers, and a program that breaks what they write to."""
