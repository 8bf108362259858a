//! The one integration test binary: `e2e/` against real hosts, `cases/` for bad input, `tidy` for the
//! laws of the house.

mod tidy;
