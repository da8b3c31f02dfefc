//! The imitation answers as the endpoint does, goes wrong as told, and sees what its client does wrong.

mod answers;
mod books;
mod faults;
mod first_hour;
mod http;
mod limits;
