//! One connection for many requests: what is brought to a member goes in portions, and a greeting
//! for each would take longer than the portion.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, header};

use super::{ANSWER_MAX, Failure, Opened, Outcome, Refusal, Reply, bearer, broken, named, open};
use crate::{
    base::wire::{self, Kind},
    cli::via::Via,
    node::uploads::{self, Offer, UploadId, lists},
    proto::replication::IHaveList,
};

/// See above. With a token, which is shown with each request.
pub(in crate::cli) struct Kept {
    via: Via,
    opened: Option<Opened>,
    /// Bytes of lists that were sent.
    pub list_bytes: u64,
}

impl Kept {
    pub fn new(via: &Via) -> Self {
        Self { via: via.clone(), opened: None, list_bytes: 0 }
    }

    /// Offers what is to be published.
    pub async fn offer(&mut self, offer: &Offer) -> Result<uploads::Reply, Refusal> {
        let bytes = wire::try_encode(Kind::Message, offer).map_err(broken)?;
        self.list_bytes += bytes.len() as u64;
        self.list("/api/v1/bring", bytes).await
    }

    /// Says what is here.
    pub async fn have(
        &mut self,
        upload: UploadId,
        list: &IHaveList,
    ) -> Result<uploads::Reply, Refusal> {
        let bytes = wire::try_encode(Kind::Tree, list).map_err(broken)?;
        self.list_bytes += bytes.len() as u64;
        self.list(&format!("/api/v1/bring/{upload}/have"), bytes).await
    }

    /// Sends an UpdateList with its content, which [`lists::pack`] made.
    pub async fn update(
        &mut self,
        upload: UploadId,
        packed: Vec<u8>,
    ) -> Result<uploads::Reply, Refusal> {
        self.list(&format!("/api/v1/bring/{upload}/update"), packed).await
    }

    /// Has it published; ends when its window is closed.
    pub async fn publish(&mut self, upload: UploadId) -> Result<Outcome, Refusal> {
        let path = format!("/api/v1/bring/{upload}/publish");
        // Over a connection of its own: a status port keeps none for ever, and this may last.
        self.opened = None;
        let bytes = self.send(&path, "application/json", Bytes::new()).await?;
        match serde_json::from_slice(&bytes).map_err(super::not_understood)? {
            Reply::Ok(outcome) => Ok(outcome),
            Reply::Error(refusal) => Err(refusal),
        }
    }

    async fn list(&mut self, path: &str, bytes: Vec<u8>) -> Result<uploads::Reply, Refusal> {
        let answer = self.send(path, lists::MEDIA_TYPE, bytes.into()).await?;
        if let Ok(Failure { error }) = serde_json::from_slice(&answer) {
            return Err(error);
        }
        uploads::Reply::decode(&answer).map_err(broken)
    }

    /// Sends a request. Where the connection was used before and has ended since, it is sent once
    /// more over another one.
    async fn send(
        &mut self,
        path: &str,
        media_type: &'static str,
        body: Bytes,
    ) -> Result<Bytes, Refusal> {
        let mut is_used = match &self.opened {
            Some((sender, _)) => !sender.is_closed(),
            None => false,
        };
        loop {
            if !is_used {
                self.opened = Some(open(&self.via).await?);
            }
            let Some((sender, _)) = &mut self.opened else { return Err(broken("it is closed")) };
            let request = named(&self.via.host(), Method::POST, path)
                .header(header::AUTHORIZATION, bearer(self.via.token()?)?)
                .body(Full::new(body.clone()));
            let mut request = request.map_err(broken)?;
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
            let answered = async {
                let response = sender.send_request(request).await.map_err(broken)?;
                let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
                Ok(body.map_err(broken)?.to_bytes())
            };
            match answered.await {
                Err(_) if is_used => is_used = false,
                answered => {
                    if answered.is_err() {
                        self.opened = None;
                    }
                    return answered;
                }
            }
        }
    }
}
