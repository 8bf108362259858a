//! What the two halves and the outside world share: REST and DCS documents, in Patroni's words.
//! Imports `model` alone.
