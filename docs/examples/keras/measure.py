"""F1 and AUC of each epoch in a CSV, and the confusion matrix."""

import keras
from digits import x_held, x_test, x_train, y_held, y_test, y_train
from model import network
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score


class OfSplit(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        shares = keras.activations.softmax(self.model.predict(x_held, verbose=0))
        shares = keras.ops.convert_to_numpy(shares)
        logs["f1"] = f1_score(y_held, shares.argmax(1), average="macro")
        logs["auc"] = roc_auc_score(y_held, shares, multi_class="ovr")


keras.utils.set_random_seed(0)
model = network()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss)
model.fit(
    x_train, y_train, validation_data=(x_held, y_held), epochs=20, batch_size=32, verbose=0,
    callbacks=[OfSplit(), keras.callbacks.CSVLogger("history.csv")],
)  # fmt: skip
print(confusion_matrix(y_test, model.predict(x_test, verbose=0).argmax(1)))
