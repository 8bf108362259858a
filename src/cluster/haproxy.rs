//! Asking one HAProxy, by the table behind its statistics page.

use super::{
    access::Access,
    http::{self, Question},
    topology::ProxyHost,
};
use std::time::Duration;

/// One proxy of HAProxy's: a port and the servers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyFacts {
    pub name: String,
    /// Names of the servers that take connections.
    pub up: Vec<String>,
    /// Servers that don't, each with what its check said last.
    pub down: Vec<(String, String)>,
}

/// Asks one HAProxy; the error says why it has no answer.
pub async fn ask(access: &Access, host: &ProxyHost, within: Duration) -> Result<Vec<ProxyFacts>, String> {
    let mut last = String::new();
    for path in ["/;csv", "/stats;csv"] {
        let stream = access.service(&host.name, &host.address, host.stats_port).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let answer = http::ask(stream, &host.address, Question::get(path, within)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.code == 200 && answer.text().starts_with("# ") {
            return read(&answer.text());
        }
        last = format!("its statistics page answers with code {}", answer.code);
    }
    Err(last)
}

/// Reads the table. Its columns are named in the first line, and grow in number with each version.
fn read(table: &str) -> Result<Vec<ProxyFacts>, String> {
    let table = table.trim_start_matches("# ");
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(table.as_bytes());
    let columns = reader.headers().map_err(|error| error.to_string())?.clone();
    let column = |name: &str| columns.iter().position(|column| column == name);
    let (Some(proxy), Some(server), Some(status)) = (column("pxname"), column("svname"), column("status"))
    else {
        return Err("its statistics have no columns `pxname`, `svname` and `status`".to_owned());
    };
    let (check, check_said) = (column("check_status"), column("last_chk"));
    let mut proxies: Vec<ProxyFacts> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let cell = |index: usize| record.get(index).unwrap_or_default();
        let name = cell(proxy);
        let known = proxies.iter().position(|facts| facts.name == name).unwrap_or_else(|| {
            proxies.push(ProxyFacts { name: name.to_owned(), up: Vec::new(), down: Vec::new() });
            proxies.len() - 1
        });
        match cell(server) {
            "FRONTEND" | "BACKEND" => {}
            member if cell(status).starts_with("UP") || cell(status) == "no check" => {
                proxies[known].up.push(member.to_owned());
            }
            member => {
                let words = [Some(cell(status)), check.map(cell), check_said.map(cell)];
                let said: Vec<_> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
                proxies[known].down.push((member.to_owned(), said.join(" ")));
            }
        }
    }
    Ok(proxies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_the_statistics_page() {
        let table = "# pxname,svname,qcur,status,weight,check_status,last_chk,\n\
            primary,FRONTEND,,OPEN,,,,\n\
            primary,pg1,0,UP,1,L7OK,HTTP status check returned code <200>,\n\
            primary,pg2,0,DOWN,1,L7STS,,\n\
            primary,BACKEND,0,UP,1,,,\n\
            replica,pg1,0,DOWN,1,L7STS,,\n\
            replica,pg2,0,UP 1/2,1,L7OK,,\n\
            stats,FRONTEND,,OPEN,,,,\n";
        let proxies = read(table).expect("a table");
        let lines: Vec<_> =
            proxies.iter().map(|p| format!("{} up {:?} down {:?}", p.name, p.up, p.down)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        primary up ["pg1"] down [("pg2", "DOWN L7STS")]
        replica up ["pg2"] down [("pg1", "DOWN L7STS")]
        stats up [] down []
        "#);
    }
}
