"""Operations on feature maps: plain torch, and faster forms of the same; `table.py` says which is taken when."""
