"""What a teacher says of every view of M epochs, computed once and read by any number of runs.

A view is a pure function of (seed, image index, view number), so its pixels are made again and only the teacher's
embedding of it is stored. Epoch e of a run that reads the cache sees the views of epoch e mod M, pixels and embeddings
both: for M >= its epochs the run is the one that asks the teacher, for fewer the views repeat.

    CACHE/cache.json        what the embeddings were computed from: a run that differs in any of it is refused
    CACHE/epoch_00000.npy   [N, V, D], rows in the order in which training visits the images in that epoch
    CACHE/epoch_00007.partial   the same, as far as it has got

Every epoch holds all N images: those that fill no whole batch, and that a run drops at the end of an epoch, stand at the
end of its file, because a later epoch that repeats these views visits the images in another order.
"""
