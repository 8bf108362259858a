//! Configuration: Patroni's YAML, the environment, the dynamic part from the DCS.
