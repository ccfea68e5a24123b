"""Operations on feature maps."""
