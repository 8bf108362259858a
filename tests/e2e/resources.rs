//! The hands on real hosts: packages, services, accounts, the kernel, virtual addresses. Each is carried
//! out twice, and the second time changes nothing.

use super::harness::program::{Scratch, eventually, pgfleet};
use pgfleet::remote::{
    frame,
    protocol::{Batch, Effect, Event, Failure, Hello, Mode, Outcome, Request, Step, Verdict},
};
use serde_json::{Value, json};
use std::{fs::File, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
};

const EXECUTABLE: &str = "/root/pgfleet";

/// A booted host with the program on it.
fn hosts(what: &str, hosts: &[&str]) -> Scratch {
    let sandbox = Scratch::new(what);
    sandbox.run("up", hosts).success();
    for host in hosts {
        let name = host.trim_start_matches("--host=").split('=').next().unwrap();
        let executable = File::open(env!("CARGO_BIN_EXE_pgfleet")).unwrap();
        let upload = format!("cat > {EXECUTABLE} && chmod 755 {EXECUTABLE}");
        let mut upload = sandbox.command("ssh", &[name, &upload]);
        assert!(upload.stdin(executable).status().unwrap().success(), "the upload to {name} failed");
    }
    sandbox
}

/// A session with the hands on a host, over SSH.
struct Hands {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    hello: Hello,
    next: u32,
    waits: Vec<String>,
}

impl Hands {
    async fn on(sandbox: &Scratch, host: &str) -> Hands {
        let remote = format!("{EXECUTABLE} remote");
        let command = pgfleet(&["sandbox", "ssh", "--name", &sandbox.name, host, &remote]);
        let mut command = tokio::process::Command::from(command);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut from = BufReader::new(from);
        let greeting = frame::read(&mut from).await.unwrap().expect("a greeting");
        let Event::Hello(hello) = greeting.decode().unwrap() else { panic!("expected a greeting") };
        Hands { child, to, from, hello, next: 0, waits: Vec::new() }
    }

    async fn begin(&mut self, mode: Mode, steps: &[(&str, Value)]) {
        let steps = steps.iter().map(|(module, args)| {
            self.next += 1;
            let resource =
                pgfleet::remote::parse(module, args.clone()).unwrap_or_else(|wrong| panic!("{wrong}"));
            let step = json!({"id": self.next, "name": module, "resource": resource});
            serde_json::from_value::<Step>(step).unwrap()
        });
        let request =
            Request::Batch(Batch { mode, diff: true, overwrite_drift: true, steps: steps.collect() });
        frame::write_message(&mut self.to, &request).await.unwrap();
        self.to.flush().await.unwrap();
    }

    async fn event(&mut self) -> Option<Event> {
        frame::read(&mut self.from).await.ok().flatten().map(|frame| frame.decode().unwrap())
    }

    async fn run(&mut self, mode: Mode, steps: &[(&str, Value)]) -> Vec<Outcome> {
        self.begin(mode, steps).await;
        let mut outcomes = Vec::new();
        loop {
            match self.event().await.expect("the session goes on") {
                Event::Waiting { message, .. } => self.waits.push(message),
                Event::Finished { outcome, .. } => outcomes.push(outcome),
                Event::BatchDone => return outcomes,
                Event::Need { .. }
                | Event::Started { .. }
                | Event::Hello(_)
                | Event::Surveyed(_)
                | Event::Opened(_)
                | Event::Dialled(_)
                | Event::Drifted(_) => {}
            }
        }
    }

    /// Plans, applies, and applies again: what the plan announced happens, and the second time nothing does.
    #[track_caller]
    #[expect(clippy::manual_async_fn, reason = "the caller's location is wanted")]
    fn twice<'a>(&'a mut self, steps: &'a [(&'a str, Value)]) -> impl Future<Output = Vec<Outcome>> + 'a {
        async move {
            let planned = self.run(Mode::Check, steps).await;
            let applied = self.run(Mode::Apply, steps).await;
            for ((planned, applied), (module, _)) in planned.iter().zip(&applied).zip(steps) {
                assert_eq!(applied.verdict, Verdict::Changed, "{module}");
                assert_eq!(planned.verdict, Verdict::Changed, "the plan of {module}");
            }
            assert_eq!((planned.len(), applied.len()), (steps.len(), steps.len()));
            self.unchanged(steps).await;
            applied
        }
    }

    async fn unchanged(&mut self, steps: &[(&str, Value)]) {
        for mode in [Mode::Apply, Mode::Check] {
            let again = self.run(mode, steps).await;
            assert_eq!(again.len(), steps.len());
            for (outcome, (module, _)) in again.iter().zip(steps) {
                assert_eq!(outcome.verdict, Verdict::Unchanged, "{mode:?} {module}: {}", outcome.diff);
            }
        }
    }

    async fn fails(&mut self, module: &str, args: Value) -> Failure {
        match self.run(Mode::Apply, &[(module, args)]).await.remove(0).verdict {
            Verdict::Failed(failure) => failure,
            other => panic!("expected {module} to fail, found {other:?}"),
        }
    }

    /// Ends the session as the control machine does.
    async fn close(mut self) {
        drop(self.to);
        assert!(self.child.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn packages_and_services() {
    let sandbox = hosts("packages", &["--host=a-1=10.128.0.11"]);
    let on = |command: &str| sandbox.on("a-1", command);
    let mut hands = Hands::on(&sandbox, "a-1").await;
    assert_eq!(hands.hello.facts["distribution_release"], "trixie");
    assert_eq!(hands.hello.facts["service_mgr"], "systemd");
    assert_eq!(hands.hello.facts["default_ipv4"]["address"], "10.128.0.11");

    // Packages, with what they start held back.
    let install = [("apt", json!({"name": ["haproxy", "etcd-server"], "hold_services": true}))];
    hands.twice(&install).await;
    assert_eq!(on("systemctl is-active haproxy etcd || true"), "inactive\ninactive");
    assert_eq!(
        on("ls /usr/sbin/policy-rc.d 2>&1 || true").split(':').next_back(),
        Some(" No such file or directory")
    );
    let unknown = hands.fails("apt", json!({"name": "haproxi"})).await;
    assert!(
        unknown.next_step.as_ref().is_some_and(|next| next.contains("did you mean `haproxy`?")),
        "{unknown:?}"
    );
    let version = hands.fails("apt", json!({"name": "haproxy=9.9"})).await;
    assert!(version.next_step.as_ref().is_some_and(|next| next.contains("apt-cache madison")), "{version:?}");

    // Services: down before, up after, and still up.
    let up = [("service", json!({"name": "etcd", "state": "started", "enabled": true}))];
    hands.run(Mode::Apply, &up).await;
    hands.unchanged(&up).await;
    let started = on("systemctl show -p InvocationID etcd");
    let restart = hands.run(Mode::Apply, &[("service", json!({"name": "etcd", "state": "restarted"}))]).await;
    assert_eq!((&restart[0].verdict, restart[0].effect), (&Verdict::Changed, Effect::Restart));
    assert_ne!(on("systemctl show -p InvocationID etcd"), started);
    hands.unchanged(&[("etcd_member", json!({"members": ["a-1"], "timeout": 20}))]).await;
    let absent = hands.fails("etcd_member", json!({"members": ["a-1", "b-1"], "timeout": 0})).await;
    assert!(absent.message.contains("members missing: b-1"), "{absent:?}");

    // Units: refused by systemd's checker, or failing right after the start, with what the journal says.
    let refused = hands
        .fails("systemd_unit", json!({"name": "bad", "content": "[Service]\nExecStart=/no/such/program\n"}))
        .await;
    assert!(refused.last_lines.iter().any(|line| line.contains("/no/such/program")), "{refused:?}");
    assert_eq!(on("ls /etc/systemd/system/bad.service 2>/dev/null || echo none"), "none");
    let unit = |seconds: &str| {
        format!(
            "[Service]\nExecStart=/bin/sh -c 'echo begun; sleep {seconds}; echo no licence; exit 7'\nRestart=always\n"
        )
    };
    let brief = ("systemd_unit", json!({"name": "brief", "content": unit("0.3")}));
    hands.twice(&[brief]).await;
    let failed = hands.fails("service", json!({"name": "brief", "state": "started"})).await;
    assert!(failed.last_lines.iter().any(|line| line == "no licence"), "{failed:?}");
    let lasting = [
        ("systemd_unit", json!({"name": "lasting", "content": unit("1000")})),
        (
            "systemd_unit",
            json!({"name": "lasting", "dropin": "limits", "content": "[Service]\nLimitNOFILE=4096\n"}),
        ),
        ("service", json!({"name": "lasting", "state": "started"})),
    ];
    hands.twice(&lasting).await;
    assert_eq!(on("systemctl show -p LimitNOFILE lasting"), "LimitNOFILE=4096");
    // As a run that was killed between writing a unit and loading it would leave it.
    on("sed -i s/1000/1001/ /etc/systemd/system/lasting.service");
    let changed =
        hands.run(Mode::Check, &[("service", json!({"name": "lasting", "state": "started"}))]).await;
    assert_eq!(changed[0].verdict, Verdict::Changed, "what is on disk is not what is loaded");
    let missing = hands.fails("service", json!({"name": "etdc", "state": "started"})).await;
    assert!(missing.message.contains("there is no unit etdc.service"), "{missing:?}");

    // HAProxy as it sees its servers: etcd's port is open, nothing listens on 1.
    let config = "global\n stats socket /run/haproxy/admin.sock mode 600\ndefaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
                  listen kv\n bind :7000\n server one 127.0.0.1:2379 check inter 200ms\n server two 127.0.0.1:1 check inter 200ms fall 1\n";
    let proxy = [
        (
            "copy",
            json!({"dest": "/etc/haproxy/haproxy.cfg", "content": config, "mode": "0640", "group": "haproxy", "validate": "haproxy -c -f %s"}),
        ),
        ("service", json!({"name": "haproxy", "state": "started"})),
    ];
    hands.run(Mode::Apply, &proxy).await;
    hands.unchanged(&proxy).await;
    hands.unchanged(&[("haproxy_backends", json!({"backends": {"kv": 1}, "timeout": 20}))]).await;
    let bad = config.replace("listen kv", "listten kv");
    let refused = hands
        .fails(
            "copy",
            json!({"dest": "/etc/haproxy/haproxy.cfg", "content": bad, "validate": "haproxy -c -f %s"}),
        )
        .await;
    assert!(refused.last_lines.iter().any(|line| line.contains("listten")), "{refused:?}");
    hands.unchanged(&proxy).await;

    hands.twice(&[("apt", json!({"name": "haproxy", "state": "absent", "purge": true}))]).await;
    hands.close().await;
}

#[tokio::test]
async fn accounts_and_the_kernel() {
    let sandbox = hosts("accounts", &["--host=a-1=10.128.0.11"]);
    let mut hands = Hands::on(&sandbox, "a-1").await;
    let accounts = [
        ("group", json!({"name": "dba", "system": true})),
        (
            "user",
            json!({"name": "postgres", "group": "dba", "groups": ["adm"], "home": "/var/lib/postgresql", "shell": "/bin/bash", "system": true}),
        ),
        (
            "file",
            json!({"path": "/srv/data", "state": "directory", "owner": "postgres", "group": "dba", "mode": "0700"}),
        ),
    ];
    hands.twice(&accounts).await;
    assert_eq!(
        sandbox.on("a-1", "id -nG postgres; stat -c '%U %G %a' /srv/data"),
        "dba adm\npostgres dba 700"
    );
    hands
        .twice(&[("user", json!({"name": "postgres", "groups": ["adm", "sudo"], "shell": "/bin/sh"}))])
        .await;
    let alias = [("command", json!({"argv": ["sh", "-c", "id -un; echo $HOME"]}))];
    let ran = hands.run(Mode::Apply, &alias).await;
    assert_eq!(ran[0].result["stdout_lines"], json!(["root", "/root"]));

    // A full disk leaves the old file, and nothing beside it.
    sandbox.on(
        "a-1",
        "mkdir /mnt/small && mount -t tmpfs -o size=64k none /mnt/small && echo old > /mnt/small/a",
    );
    let full = hands.fails("copy", json!({"dest": "/mnt/small/a", "content": "x".repeat(200_000)})).await;
    assert!(full.message.contains("no space left on the device"), "{full:?}");
    assert!(
        full.next_step.as_ref().is_some_and(|next| next.contains("free space where /mnt/small is")),
        "{full:?}"
    );
    assert_eq!(sandbox.on("a-1", "cd /mnt/small && ls -A && cat a"), "a\nold");

    // What this kernel lets a container set is set; what it refuses is said, and is no change the next time.
    let kernel = (
        "sysctl",
        json!({"values": {"net.ipv4.tcp_fin_timeout": 15, "vm.swappiness": 1, "net.nonsense": 1}}),
    );
    let applied = hands.twice(std::slice::from_ref(&kernel)).await;
    assert_eq!(sandbox.on("a-1", "cat /proc/sys/net/ipv4/tcp_fin_timeout"), "15");
    let warned = |name: &str| applied[0].warnings.iter().any(|warning| warning.starts_with(name));
    assert!(warned("vm.swappiness") && warned("net.nonsense"), "{:?}", applied[0].warnings);
    let wrong = hands.fails("sysctl", json!({"name": "net.ipv4.tcp_fin_timeout", "value": "soon"})).await;
    assert!(wrong.message.contains("the kernel refuses net.ipv4.tcp_fin_timeout = soon"), "{wrong:?}");
    let applied = hands.twice(&[("modprobe", json!({"name": "softdog"}))]).await;
    assert_eq!(applied[0].warnings.len(), 1, "the container has no modules");
    hands.close().await;
}

#[tokio::test]
async fn a_virtual_address_has_one_holder() {
    let sandbox = hosts("vip", &["--host=a-1=10.128.0.11", "--host=b-1=10.128.0.12"]);
    let vip = |timeout: u32| json!({"address": "10.128.0.50/24", "timeout": timeout});
    let mut a = Hands::on(&sandbox, "a-1").await;
    let nobody = a.fails("vip", vip(0)).await;
    assert!(nobody.message.contains("nobody holds 10.128.0.50"), "{nobody:?}");
    sandbox.on("a-1", "ip address add 10.128.0.50/24 dev host0");
    let mut b = Hands::on(&sandbox, "b-1").await;
    a.unchanged(&[("vip", vip(5))]).await;
    b.unchanged(&[("vip", vip(5))]).await;
    sandbox.on("b-1", "ip address add 10.128.0.50/24 dev host0");
    for hands in [&mut a, &mut b] {
        let both = hands.fails("vip", vip(0)).await;
        assert!(both.message.contains("held here and by"), "{both:?}");
    }
}

#[tokio::test]
async fn a_run_that_is_killed_amid_an_installation_is_completed_by_the_next_one() {
    let sandbox = hosts("killed", &["--host=a-1=10.128.0.11"]);
    let install = [("apt", json!({"name": ["haproxy", "keepalived"], "hold_services": true}))];
    let mut first = Hands::on(&sandbox, "a-1").await;
    first.begin(Mode::Apply, &install).await;
    eventually("the installation has begun", Duration::from_secs(120), || {
        let begun = sandbox.on("a-1", "grep -c '^Status: install ok unpacked' /var/lib/dpkg/status || true");
        (begun != "0").then_some(())
    });
    sandbox.on("a-1", "kill -9 $(sed 's/process //; s/,.*//' /var/lib/pgfleet/lock)");
    let mut second = Hands::on(&sandbox, "a-1").await;
    let outcome = second.run(Mode::Apply, &install).await.remove(0);
    assert!(!matches!(outcome.verdict, Verdict::Failed(_)), "{outcome:?}");
    second.unchanged(&install).await;
    assert_eq!(sandbox.on("a-1", "systemctl is-active haproxy keepalived || true"), "inactive\ninactive");
    assert_eq!(sandbox.on("a-1", "ls /usr/sbin/policy-rc.d 2>/dev/null || echo none"), "none");
    // Two runs at a time: the second says whom it waits for, and goes on when the first has ended.
    let mut third = Hands::on(&sandbox, "a-1").await;
    third.begin(Mode::Apply, &[("command", json!("true"))]).await;
    while !matches!(third.event().await, Some(Event::Waiting { message, .. }) if message.contains("another run is at work"))
    {
    }
    second.close().await;
    while !matches!(third.event().await, Some(Event::Finished { outcome, .. }) if outcome.verdict == Verdict::Changed)
    {
    }
    third.close().await;
}
