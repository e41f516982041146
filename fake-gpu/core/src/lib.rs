//! GPUs made of one mapped file: memory, time and topology shared by the processes of a node.
