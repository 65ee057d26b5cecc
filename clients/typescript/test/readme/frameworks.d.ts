/** The parts of Next.js, React and Clerk that the programs of the README use, as these packages declare them. */
declare module "next/server" {
  export class NextRequest extends Request {
    readonly nextUrl: URL;
  }
  export class NextResponse extends Response {
    static redirect(url: string | URL): NextResponse;
  }
}

declare module "next/navigation" {
  export function redirect(url: string): never;
}

declare module "@clerk/nextjs/server" {
  interface Auth {
    userId: string | null;
    orgId: string | null | undefined;
  }
  interface SignedIn extends Auth {
    userId: string;
  }
  export function auth(): Promise<Auth>;
  export namespace auth {
    function protect(): Promise<SignedIn>;
  }
  export function clerkMiddleware(
    handler: (
      auth: { (): Promise<Auth>; protect(): Promise<SignedIn> },
      request: import("next/server").NextRequest,
    ) => Promise<Response | void>,
  ): (request: import("next/server").NextRequest) => Promise<Response>;
}

declare namespace JSX {
  type Element = object;
  interface IntrinsicElements {
    [tag: string]: object;
  }
}
