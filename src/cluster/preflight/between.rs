//! What hosts find out with each other: all of them listen first, then each dials the others.

use super::{
    Machine, Scope,
    ask::gone,
    links::Contact,
    routes::{self, Opened},
};
use crate::engine::Worker;
use futures_util::future::join_all;

/// Adds to each machine what it has found out with the others. `hands` are in the order of the machines; those
/// of a host that was not reached are none.
pub async fn meet(machines: &mut [Machine], hands: &mut [Option<Worker>], scope: Scope) {
    if hands.iter().flatten().count() < 2 {
        return;
    }
    let doors: Vec<_> = machines.iter().map(|machine| routes::doors(machine, machines)).collect();
    let open = machines.iter_mut().zip(hands.iter_mut()).zip(doors).map(async |((machine, hands), doors)| {
        let Some(worker) = hands else { return Opened::default() };
        match worker.open(machine.name.as_str(), doors.clone()).await {
            Ok(answers) => Opened::of(&doors, answers),
            Err(lost) => {
                machine.found = Err(gone(&lost));
                Opened::default()
            }
        }
    });
    let opened = join_all(open).await;
    let routes: Vec<_> =
        machines.iter().map(|machine| routes::routes(machine, machines, &opened, scope)).collect();
    let dial =
        machines.iter_mut().zip(hands.iter_mut()).zip(routes).map(async |((machine, hands), routes)| {
            let (Some(worker), Ok(found)) = (hands, &mut machine.found) else { return };
            match worker.dial(routes.iter().map(|route| route.dial.clone()).collect()).await {
                Ok(results) => {
                    let contacts = routes.into_iter().zip(results);
                    found.contacts = contacts
                        .map(|(route, result)| Contact { with: route.to, port: route.port, result })
                        .collect();
                }
                Err(lost) => machine.found = Err(gone(&lost)),
            }
        });
    join_all(dial).await;
}
