//! The node's DRA plugin: discovery, Prepare and Unprepare, CDI, checkpoint.
