//! Proving who we are: keys first, as OpenSSH orders them, then the password where one is given.

use super::{
    config::Route,
    error::{ConnectProblem, SEALED},
    host_key::{Gate, plain},
    identity::{self, Agent, KeyFile},
    target::{Options, Target},
};
use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, agent::AgentIdentity},
};
use std::{
    collections::HashSet,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

/// An agent may ask its owner before it signs.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);

/// Attempts to be let in as `route.user`.
pub async fn authenticate(
    handle: &mut Handle<Gate>,
    route: &Route,
    target: &Target,
    options: &Options,
) -> Result<(), ConnectProblem> {
    let named: Vec<_> = options.identity.iter().chain(&target.identity).cloned().collect();
    let mut attempt = Attempt {
        handle,
        route,
        patience: options.connect_timeout,
        rsa_hash: None,
        methods: None,
        tried: Vec::new(),
        skipped: Vec::new(),
        seen: HashSet::new(),
    };
    let mut agent = Agent::open(route).await;

    // What the inventory names comes before everything else, and has to exist.
    for path in &named {
        if attempt.file(path, true, agent.as_mut(), options).await? {
            return Ok(());
        }
    }
    // A password that was given is meant to be used: keys that happen to lie around could use up the
    // attempts that the server allows.
    if let Some(password) = &target.password
        && attempt.password(password.expose()).await?
    {
        return Ok(());
    }
    let files: Vec<PathBuf> = route.identities.iter().filter(|path| !named.contains(path)).cloned().collect();
    if let Some(agent) = agent.as_mut() {
        let mut wanted = Vec::new();
        for path in &files {
            if let Ok(Some(key)) = identity::read(path, None, &options.shared.keys).await
                && let Some(public) = key.public()
            {
                wanted.push(public.key_data().clone());
            }
        }
        let mut identities = agent.identities.clone();
        if route.identities_only {
            identities.retain(|identity| wanted.contains(identity.public_key().key_data()));
        }
        identities.sort_by_key(|identity| !wanted.contains(identity.public_key().key_data()));
        for identity in identities {
            if attempt.agent(agent, &identity).await? {
                return Ok(());
            }
        }
    }
    for path in &files {
        if attempt.file(path, false, agent.as_mut(), options).await? {
            return Ok(());
        }
    }
    if attempt.methods.is_none() && attempt.ask_methods().await? {
        return Ok(());
    }
    Err(attempt.denied())
}

struct Attempt<'a> {
    handle: &'a mut Handle<Gate>,
    route: &'a Route,
    patience: Duration,
    /// The hash that the server wants RSA signatures to use, once known.
    rsa_hash: Option<HashAlg>,
    /// What the server said it still accepts; `None` before its first answer.
    methods: Option<MethodSet>,
    tried: Vec<String>,
    skipped: Vec<String>,
    seen: HashSet<PublicKey>,
}

impl Attempt<'_> {
    /// Whether it is worth trying this method at all.
    fn accepts(&self, method: MethodKind) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(&method))
    }

    fn denied(&self) -> ConnectProblem {
        let names = |method: &MethodKind| <&str>::from(method).to_owned();
        ConnectProblem::AccessDenied {
            to: self.route.endpoint(),
            user: self.route.user.clone(),
            tried: self.tried.clone(),
            skipped: self.skipped.clone(),
            offered: self
                .methods
                .as_ref()
                .map(|methods| methods.iter().map(names).collect())
                .unwrap_or_default(),
        }
    }

    fn ended(&self, why: String) -> ConnectProblem {
        // sshd ends the connection after `MaxAuthTries` failures.
        if self.tried.is_empty() {
            ConnectProblem::Ended { to: self.route.endpoint(), why }
        } else {
            self.denied()
        }
    }

    fn timed_out(&self, after: Duration) -> ConnectProblem {
        ConnectProblem::TimedOut { to: self.route.endpoint(), after, stage: "authenticating" }
    }

    fn settle(&mut self, what: String, result: AuthResult) -> Result<bool, ConnectProblem> {
        self.tried.push(what);
        match result {
            AuthResult::Success => Ok(true),
            AuthResult::Failure { remaining_methods, .. } => {
                if self.handle.is_closed() {
                    return Err(self.denied());
                }
                self.methods = Some(remaining_methods);
                Ok(false)
            }
        }
    }

    async fn within<T>(
        after: Duration,
        answer: impl Future<Output = Result<T, russh::Error>>,
    ) -> Result<Result<T, String>, Duration> {
        tokio::time::timeout(after, answer)
            .await
            .map(|done| done.map_err(|error| plain(&error)))
            .map_err(|_| after)
    }

    async fn hash_for(&mut self, key: &PublicKey) -> Option<HashAlg> {
        if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            return None;
        }
        if self.rsa_hash.is_none() {
            // `None` from the server means that it did not say; SHA-1 is never offered.
            let best = self.handle.best_supported_rsa_hash().await.ok().flatten().flatten();
            self.rsa_hash = Some(best.unwrap_or(HashAlg::Sha512));
        }
        self.rsa_hash
    }

    async fn file(
        &mut self,
        path: &Path,
        must_exist: bool,
        agent: Option<&mut Agent>,
        options: &Options,
    ) -> Result<bool, ConnectProblem> {
        if !self.accepts(MethodKind::PublicKey) {
            return Ok(false);
        }
        let shown = path.display();
        let read = identity::read(path, options.passphrase.as_ref(), &options.shared.keys).await;
        let key = match read {
            Ok(Some(key)) => key,
            Ok(None) if must_exist => {
                return Err(ConnectProblem::Identity {
                    path: path.to_owned(),
                    why: "there is no such file".to_owned(),
                });
            }
            Ok(None) => return Ok(false),
            Err(problem) if must_exist => return Err(problem),
            Err(problem) => {
                self.skipped.push(problem.to_string());
                return Ok(false);
            }
        };
        if let (Some(agent), Some(public)) = (agent, key.public())
            && agent.holds(public)
        {
            let held = agent.identities.iter().find(|held| held.public_key().key_data() == public.key_data());
            return match held.cloned() {
                Some(identity) => self.agent(agent, &identity).await,
                None => Ok(false),
            };
        }
        let KeyFile::Open { key, certificate } = key.as_ref() else {
            self.skipped.push(format!("{shown}{SEALED}, and ssh-agent does not hold it"));
            return Ok(false);
        };
        if !self.seen.insert(key.public_key().clone()) {
            return Ok(false);
        }
        let hash = self.hash_for(key.public_key()).await;
        let user = self.route.user.clone();
        if let Some(certificate) = certificate {
            let answer = self.handle.authenticate_openssh_cert(
                user.clone(),
                key.clone(),
                certificate.as_ref().clone(),
            );
            let result = Self::within(self.patience, answer).await.map_err(|after| self.timed_out(after))?;
            let result = result.map_err(|why| self.ended(why))?;
            if self.settle(format!("{shown} with its certificate"), result)? {
                return Ok(true);
            }
        }
        let offered = PrivateKeyWithHashAlg::new(key.clone(), hash);
        let answer = self.handle.authenticate_publickey(user, offered);
        let result = Self::within(self.patience, answer).await.map_err(|after| self.timed_out(after))?;
        let result = result.map_err(|why| self.ended(why))?;
        self.settle(format!("{shown} ({})", identity::describe(key.public_key())), result)
    }

    async fn agent(&mut self, agent: &mut Agent, identity: &AgentIdentity) -> Result<bool, ConnectProblem> {
        let public = identity.public_key().into_owned();
        if !self.accepts(MethodKind::PublicKey) || !self.seen.insert(public.clone()) {
            return Ok(false);
        }
        let hash = self.hash_for(&public).await;
        let user = self.route.user.clone();
        let what = format!("{} of ssh-agent ({})", identity.comment(), identity::describe(&public));
        // Keys may be bound to destinations; agents that know nothing of it refuse, which is fine.
        if let Some(binding) = self.handle.agent_session_binding() {
            let _ = agent.client.bind_session(binding, false).await;
        }
        let answer = async {
            match identity {
                AgentIdentity::Certificate { certificate, .. } => {
                    self.handle
                        .authenticate_certificate_with(user, certificate.clone(), hash, &mut agent.client)
                        .await
                }
                AgentIdentity::PublicKey { key, .. } => {
                    self.handle.authenticate_publickey_with(user, key.clone(), hash, &mut agent.client).await
                }
            }
        };
        match tokio::time::timeout(AGENT_PATIENCE.max(self.patience), answer).await {
            Ok(Ok(result)) => self.settle(what, result),
            Ok(Err(error)) => {
                self.skipped.push(format!("{what}: the agent does not sign ({error})"));
                Ok(false)
            }
            Err(_) => Err(self.timed_out(AGENT_PATIENCE.max(self.patience))),
        }
    }

    async fn password(&mut self, password: &str) -> Result<bool, ConnectProblem> {
        // Only an attempt tells which of the two password methods the server has.
        if self.methods.is_none() && self.ask_methods().await? {
            return Ok(true);
        }
        if self.accepts(MethodKind::Password) {
            let answer = self.handle.authenticate_password(self.route.user.clone(), password);
            let result = Self::within(self.patience, answer).await.map_err(|after| self.timed_out(after))?;
            let result = result.map_err(|why| self.ended(why))?;
            return self.settle("the password".to_owned(), result);
        }
        if self.accepts(MethodKind::KeyboardInteractive) {
            return self.keyboard_interactive(password).await;
        }
        Ok(false)
    }

    /// Asks to be let in with nothing, which tells what would be accepted; true when that was enough.
    async fn ask_methods(&mut self) -> Result<bool, ConnectProblem> {
        let answer = self.handle.authenticate_none(self.route.user.clone());
        let result = Self::within(self.patience, answer).await.map_err(|after| self.timed_out(after))?;
        match result.map_err(|why| self.ended(why))? {
            AuthResult::Success => Ok(true),
            AuthResult::Failure { remaining_methods, .. } => {
                self.methods = Some(remaining_methods);
                Ok(false)
            }
        }
    }

    /// Answers every hidden question with the password: that is what PAM asks for.
    async fn keyboard_interactive(&mut self, password: &str) -> Result<bool, ConnectProblem> {
        let start = self.handle.authenticate_keyboard_interactive_start(self.route.user.clone(), None);
        let mut response = Self::within(self.patience, start).await.map_err(|after| self.timed_out(after))?;
        for _ in 0..10 {
            match response.map_err(|why| self.ended(why))? {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                    let result = AuthResult::Failure { remaining_methods, partial_success };
                    return self.settle("the password (keyboard-interactive)".to_owned(), result);
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    let answers = prompts
                        .iter()
                        .map(|prompt| if prompt.echo { String::new() } else { password.to_owned() });
                    let answer = self.handle.authenticate_keyboard_interactive_respond(answers.collect());
                    response =
                        Self::within(self.patience, answer).await.map_err(|after| self.timed_out(after))?;
                }
            }
        }
        Ok(false)
    }
}
