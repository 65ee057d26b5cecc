//! Reading and verifying, in sentences.
