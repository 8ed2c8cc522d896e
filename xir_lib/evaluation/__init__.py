"""One evaluation, and what is made of it. Knows no study."""
