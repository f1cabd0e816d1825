"""The nnU-Net room: everything that touches nnunetv2 or torch's training code is in here.

Rules:
 * Nothing outside this package imports nnunetv2. Importing the package imports neither nnunetv2 nor
   torch (they take seconds); functions do, when they are called.
 * nnunetv2 is used unmodified: no module of it is patched, no class of it is replaced. Attributes
   are set only on instances that fedfs made itself.
 * nnU-Net's folders, files and names stay what they are, so that its own commands go on working.
 * A site runs nnU-Net in its own process (:mod:`fedfs.nnunet.nnunet_learner`); the aggregator and
   the command line run it in a child (:mod:`fedfs.nnunet.system.isolated`).
"""
