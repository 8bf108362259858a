//! The REST API, in Patroni's contract.
