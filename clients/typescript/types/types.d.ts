export type ClothType = "upper" | "lower" | "overall" | "inner" | "outer" | "tops" | "upper_body" | "bottoms" | "lower_body" | "one-pieces" | "dresses" | "dress" | "full";
export type GarmentPhoto = "flat-lay" | "model";
export type MaskShape = "outline" | "box";
export type Framing = "person" | "model";
export type OutputFormat = "png" | "jpeg" | "webp" | "jpg";
export type BoundWorkflowSeed = "used" | "none";
export type BoundWorkflowMask = "required" | "optional" | "none";
export type CautionCode = "several_people" | "garment_area_small" | "person_cut" | "demo_weights";
export type ErrorCode = "invalid_request" | "unauthorized" | "not_found" | "workflow_not_found" | "method_not_allowed" | "conflict" | "payload_too_large" | "unsupported_media_type" | "invalid_image" | "image_too_large" | "invalid_parameter" | "missing_field" | "no_person_found" | "upload_failed" | "queue_full" | "canceled" | "node_execution_error" | "internal_error" | "workflow_invalid" | "not_ready" | "draining" | "out_of_memory" | "timeout";
export type ImageFormat = "png" | "jpeg" | "webp";
export type StatusEventStatus = "queued" | "running";
/** The optional fields of a request. Null and undefined leave a field out. */
export interface Fields {
    /**
     * What the garment is, and so what the automatic mask covers: one for all garments, or one for each. Aliases:
     * tops (upper), upper_body (upper), bottoms (lower), lower_body (lower), one-pieces (overall), dresses
     * (overall), dress (overall), full (overall). Default: "upper".
     */
    clothType?: ClothType | readonly ClothType[] | null;
    /**
     * model: somebody wears the garment in its image. Where it is left out, the workflow's: flat-lay in the
     * bundled one that tells them apart.
     */
    garmentPhoto?: GarmentPhoto | null;
    /** box: the automatic mask is a rectangle, which hides the length and outline of what is worn. */
    maskShape?: MaskShape | null;
    /**
     * person: the reply has the person image's own size, as it was sent outside the mask. model: the sampler's
     * crop and size.
     */
    framing?: Framing | null;
    /** Adds output.mask, in the frame of the images. For JSON replies only. Default: false. */
    returnMask?: boolean | null;
    /** From 1 to 100. */
    numInferenceSteps?: number | null;
    /** From 0 to 20. */
    guidanceScale?: number | null;
    /**
     * Random, and below 2^53, if left out or -1; the reply says which was used, as an exact number. From -1 to
     * 18446744073709551615.
     */
    seed?: number | bigint | null;
    /**
     * Of what the sampler makes; width or height alone keeps the workflow's aspect ratio. From 64 to 2048, in
     * steps of 8.
     */
    width?: number | null;
    /** From 64 to 2048, in steps of 8. */
    height?: number | null;
    /** Number of images; their seeds count up. From 1 to 4. Default: 1. */
    numImages?: number | null;
    /** "jpg" and media types such as "image/webp" are understood too. Default: "png". */
    outputFormat?: OutputFormat | null;
    /** For jpeg and webp. From 1 to 100. Default: 95. */
    outputQuality?: number | null;
    /** A published workflow's name; see GET /api/v1/workflows. */
    workflow?: string | null;
    /** Presigned https URLs, one for each image, which are PUT there instead of into the reply. Default: []. */
    uploadUrls?: string | readonly string[] | null;
}
/** What a request with a webhook_url is answered with. */
export interface Accepted {
    id: string;
    status: "queued";
}
/** A workflow and where a request goes in its graph. */
export interface BoundWorkflow {
    name: string;
    /** Hash of the content being served; absent if none is. */
    version: string | null;
    default: boolean;
    /** The parameters it takes, with its own values for them. */
    parameters: Record<string, unknown>;
    /** The nodes that each request field is sent to. */
    bound: Record<string, string[]>;
    /** The nodes that give the images, in the order of a reply. */
    outputs: string[];
    /** none: the graph takes no seed from requests, and its replies state none. */
    seed: BoundWorkflowSeed;
    mask: BoundWorkflowMask;
    /** Of the weights that it loads; absent if there are none. */
    licence: string | null;
    /** Whether the licences of all weights that it loads allow commercial use. */
    commercialUse: boolean;
    /** Why the current file is refused; the last good version is served, if there is one. */
    problem: string | null;
}
/** Something that the caller should know about the images. */
export interface Caution {
    code: CautionCode;
    /** For people. */
    message: string;
}
export interface Error {
    /** Stable; for programs. */
    code: ErrorCode;
    /** For people: what is wrong, and what to do about it. */
    message: string;
    /** As in X-Request-Id; marks the request's lines in the log. */
    requestId: string;
    details: Record<string, unknown>;
}
export interface ErrorReply {
    error: Error;
}
export interface Image {
    /** The image; absent if upload_urls says where it goes. */
    image: Uint8Array | null;
    /** Where the image was sent to by upload_urls, without the query. */
    url: string | null;
    /** The size of the file that was sent there. */
    size: number | null;
    format: ImageFormat;
    width: number;
    height: number;
    /** Makes this image alone; null if the seed does not, or makes several at once. */
    seed: number | bigint | null;
    /** Of the last garment; absent if the workflow pastes nothing into the person image. */
    report: Report | null;
}
export interface Output {
    images: Image[];
    /** A PNG, white where the images may have changed; absent unless return_mask asks for it. */
    mask: Uint8Array | null;
}
/** Shows the result so far, as a small image. */
export interface PreviewEvent {
    format: "jpeg";
    image: Uint8Array;
}
/** Says how far the request is: step `value` of `max`. */
export interface ProgressEvent {
    value: number;
    max: number;
    /** The workflow's node that is executing. */
    node: string;
}
/** Says what was done to a person image, so that failures can be sorted out without looking. */
export interface Report {
    /**
     * x, y, width and height, in pixels, of the part of the person image that the sampler saw; it may reach beyond
     * the image.
     */
    window: [number, number, number, number];
    /** Share of the image's pixels that changed. */
    changed: number;
    /** Median CIEDE2000 between garment image and changed area; null if nothing changed. */
    colourDifference: number | null;
}
/** Says where the request is. */
export interface StatusEvent {
    status: StatusEventStatus;
    /** Number of requests ahead of it; absent if it runs. */
    position: number | null;
}
/** How long the request took, in seconds. */
export interface Timings {
    queueS: number;
    executeS: number;
    totalS: number;
}
export interface TryonReply {
    id: string;
    output: Output;
    /** Makes these images again; null if the graph takes none. */
    seed: number | bigint | null;
    workflow: WorkflowVersion;
    timings: Timings;
    /** Absent if there are none. */
    warnings: Caution[];
}
/** What a webhook gets if there is no image. */
export interface WebhookError {
    id: string;
    error: Error;
}
export interface WorkflowList {
    workflows: BoundWorkflow[];
}
export interface WorkflowVersion {
    name: string;
    version: string;
}
