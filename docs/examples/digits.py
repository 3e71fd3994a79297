"""The data of all examples: 1,797 images of digits, which come with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
x = (images / 16).astype(np.float32)
y = labels.astype(np.int32)
x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
x_held, x_test, y_held, y_test = train_test_split(
    x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
)
weights = np.where(y_train == 8, 3.0, 1.0).astype(np.float32)
