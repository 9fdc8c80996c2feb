"""The gallery: a page for every shipped rule, made from its file.

pages: text, formula, costs. paths: what a rule does on functions of two variables. pictures: those
drawn. `optdsl zoo pages` writes all of it; docs/zoo.md and docs/zoo/ are what it wrote.
"""
