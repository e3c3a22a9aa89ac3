// Compiled, never run: what users write has the types that they expect.

import { TryOn, TryOnError, verifyWebhook } from "virtual-tryon-client";
import type { ErrorCode, Result, ResultImage } from "virtual-tryon-client";

export async function use(file: File): Promise<Blob | null> {
  const client = new TryOn({ url: "https://tryon.example", apiKey: "secret", maxRetries: 2 });
  const { signal } = new AbortController();
  try {
    const result: Result = await client.tryOn(
      { person: file, garment: [file, new URL("https://shop.example/1.jpg")], clothType: ["upper", "lower"], seed: 7n },
      { signal, requestId: "order-17" },
    );
    const image: ResultImage | undefined = result.images[0];
    const difference: number | null | undefined = image?.report?.colourDifference;
    console.log(difference, result.timings.totalS, result.warnings.map(({ code }) => code), result.seed);
    return image?.blob ?? null;
  } catch (error) {
    if (error instanceof TryOnError && error.code === ("queue_full" satisfies ErrorCode)) {
      console.log(error.retryAfter, error.details["field"]);
    }
    throw error;
  }
}

export async function follow(client: TryOn, file: Blob): Promise<void> {
  for await (const event of client.stream({ person: file, garment: file, framing: "model" })) {
    switch (event.type) {
      case "status":
        console.log(event.status === "queued" ? event.position : event.status);
        break;
      case "progress":
        console.log(event.value / event.max);
        break;
      case "preview":
        console.log(event.image.length);
        break;
      case "output":
        console.log(event.result.images.length);
    }
  }
  // @ts-expect-error There is no such framing.
  await client.tryOn({ person: file, garment: file, framing: "portrait" });
  // @ts-expect-error The garment is missing.
  await client.tryOn({ person: file });
}

export async function receive(request: Request, secret: string): Promise<string | null> {
  const outcome = await verifyWebhook(await request.arrayBuffer(), request.headers, secret);
  return outcome instanceof TryOnError ? outcome.requestId : outcome.id;
}
