//! Members inside another tokio program, through the library's public API: two
//! of them found a cluster, publish a page and read it from the second one.
//!
//! `cargo run --example embedded`

use std::{error::Error, net::SocketAddr, path::Path, time::Duration};

use althing::{
    base::{AppName, MemberName},
    member::command::{Command, Outcome},
    node::{Options, Publish, Running, start},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let options = |name: &str, ip: &str| -> Result<Options, Box<dyn Error>> {
        // What `althing up` has, but for two addresses: any free port of this machine.
        let mut options = Options::new(scratch.path().join(name), MemberName::parse(name)?);
        options.bind = format!("{ip}:0").parse()?;
        options.listen = Some(format!("{ip}:0").parse()?);
        Ok(options)
    };

    // The first member founds the cluster; any member can invite another.
    let first = start(options("first", "127.0.0.1")?).await?;
    let seed = rand::random::<[u8; 32]>();
    let invite = Command::Invite { seed, uses: 1, valid_s: 3_600 };
    let Outcome::Invited { token, .. } = first.handle().command(invite).await? else {
        return Err("an invitation was expected".into());
    };
    let mut second = options("second", "127.0.0.2")?;
    second.join = vec![first.ready.cluster_address];
    second.token = Some(token);
    let second = start(second).await?;
    until(&second, "both members have a vote", |v| v.members.iter().all(|m| m.voter)).await?;

    // Published to the first, served by the second.
    let site = scratch.path().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("index.html"), "<h1>Hello from every member</h1>\n")?;
    println!("published: {:?}", publish(&first, &site).await?);
    let address = second.ready.site_address.ok_or("the second member serves no sites")?;
    println!("{}", get(address).await?);

    first.handle().stop().await;
    second.handle().stop().await;
    println!("ended: {:?}, {:?}", first.wait().await, second.wait().await);
    Ok(())
}

async fn publish(member: &Running, site: &Path) -> Result<Outcome, Box<dyn Error>> {
    let publish = Publish {
        app: Some(AppName::parse("hello")?),
        message: "the first version".to_owned(),
        ..Publish::new(site)
    };
    Ok(member.handle().publish(publish).await?)
}

async fn until(
    member: &Running,
    what: &str,
    holds: impl Fn(&althing::member::view::View) -> bool,
) -> Result<(), Box<dyn Error>> {
    let mut views = member.handle().watch();
    let waiting = async {
        loop {
            if holds(&views.borrow_and_update()) {
                return;
            }
            if views.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await?;
    println!("{what}");
    Ok(())
}

async fn get(address: SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
